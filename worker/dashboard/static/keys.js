// Fills the page of the keys from the admin endpoints, every second, and sends what the buttons ask for.
// Everything that comes from the server becomes text, never markup.
(function () {
    "use strict";

    const page = document.getElementById("keys-page");
    if (!page || page.dataset.guarded !== "yes") {
        return;
    }
    const readOnly = page.dataset.readOnly === "yes";
    const every_ms = 1000;
    const slow_every_ms = 3000; // dead letters and audit trail
    const stale_ms = 3000; // with no answer for so long, what is shown is not live
    const give_up_ms = 10000;
    const give_up_on_change_ms = 65000; // a replay of many takes its time
    const hourAndMinute = { hour: "2-digit", minute: "2-digit" };
    const narrow = window.matchMedia("(max-width: 40rem)");
    const shown = new Map(); // service name → its elements
    const trouble = document.getElementById("keys-trouble");
    const evicts = document.getElementById("keys-evicts");
    const freshness = document.getElementById("keys-freshness");
    let latest = null; // the latest status
    let answeredAt = null;
    let slowAt = -Infinity;
    let asking = null;
    let timer = null;
    let ended = false; // the login is over: asking again would only make the browser ask for a password

    // ---- small things ----

    function make(tag, className, text) {
        const element = document.createElement(tag);
        if (className) {
            element.className = className;
        }
        if (text !== undefined) {
            element.textContent = text;
        }
        return element;
    }

    function setText(element, text) {
        if (element.textContent !== text) {
            element.textContent = text;
        }
    }

    function count(number) {
        return Math.round(number).toLocaleString("en");
    }

    function plural(number, one) {
        return count(number) + " " + one + (number === 1 ? "" : "s");
    }

    function title(service) {
        return service.charAt(0).toUpperCase() + service.slice(1);
    }

    function duration(ms) {
        const seconds = Math.max(0, Math.ceil(ms / 1000));
        const two = function (number) { return String(number).padStart(2, "0"); };
        if (seconds < 60) {
            return seconds + " s";
        }
        if (seconds < 3600) {
            return Math.floor(seconds / 60) + " min " + two(seconds % 60) + " s";
        }
        return Math.floor(seconds / 3600) + " h " + two(Math.floor(seconds / 60) % 60) + " min";
    }

    function clockTime(at_ms, options) {
        const at = new Date(at_ms);
        const today = new Date().toDateString() === at.toDateString();
        return (today ? "" : at.toLocaleDateString() + " ") + at.toLocaleTimeString([], options);
    }

    // A code of ours, such as rate_limit, in words; what others wrote stays as it is.
    function words(code) {
        return /^[a-z_]+$/.test(code) ? code.replaceAll("_", " ") : code;
    }

    function cookie(name) {
        const found = document.cookie.split("; ").find(function (pair) { return pair.startsWith(name + "="); });
        return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
    }

    // ---- talking to the server ----

    async function talk(url, options) {
        const giveUp = new AbortController();
        const late = setTimeout(function () { giveUp.abort(); }, options ? give_up_on_change_ms : give_up_ms);
        try {
            const answer = await fetch(url, Object.assign(
                { credentials: "same-origin", cache: "no-store", signal: giveUp.signal }, options));
            const told = await answer.json().catch(function () { return {}; });
            if (!answer.ok) {
                const refusal = new Error(told.message || "Flower answered " + answer.status + ".");
                refusal.status = answer.status;
                throw refusal;
            }
            return told;
        } catch (error) {
            if (error.name === "AbortError") {
                throw new Error("Flower did not answer in time.");
            }
            throw error instanceof TypeError ? new Error("Flower cannot be reached.") : error;
        } finally {
            clearTimeout(late);
        }
    }

    async function look() {
        clearTimeout(timer);
        if (asking || ended) {
            return asking;
        }
        asking = (async function () {
            try {
                const slow = performance.now() - slowAt >= slow_every_ms;
                const asked = [talk(page.dataset.statusUrl)];
                if (slow) {
                    asked.push(talk(page.dataset.lettersUrl + lettersQuery()), talk(page.dataset.auditUrl + auditQuery()));
                }
                const told = await Promise.all(asked);
                latest = told[0];
                answeredAt = Date.now();
                showStatus(latest);
                showUnknown(latest.unknown_answers);
                if (slow) {
                    slowAt = performance.now();
                    showLetters(told[1]);
                    showAudit(told[2]);
                }
                trouble.hidden = true;
            } catch (error) {
                showTrouble(error);
            }
            showFreshness();
        }());
        await asking;
        asking = null;
        clearTimeout(timer);
        if (document.visibilityState === "visible" && !ended) {
            timer = setTimeout(look, every_ms);
        }
    }

    function showTrouble(error) {
        ended = error.status === 401;
        setText(trouble, ended ? "Your login has ended. Reload this page to log in again."
            : error.message + (latest ? " What you see may be old; trying again." : " Trying again."));
        trouble.hidden = false;
        if (!latest) {
            setText(document.getElementById("letters-count"), "Not known yet.");
            auditMessage("Not known yet.");
        }
    }

    function showFreshness() {
        if (answeredAt === null) {
            setText(freshness, trouble.hidden ? "Loading…" : "Not live.");
        } else if (ended || Date.now() - answeredAt > stale_ms) {
            setText(freshness, "Not live: this is how it was at " + clockTime(answeredAt) + ".");
        } else {
            setText(freshness, "Live: every second, without a reload.");
        }
    }

    async function change(url, body, done) {
        try {
            const told = await talk(url, {
                method: "POST",
                headers: { "Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf") },
                body: JSON.stringify(body),
            });
            say(done(told), "success");
        } catch (error) {
            say(error.message, "danger");
        }
        await lookAnew();
    }

    async function lookAnew() {
        if (asking) {
            await asking; // it may have begun before the change
        }
        slowAt = -Infinity;
        await look();
    }

    function say(text, kind) {
        const toast = make("div", "toast show text-bg-" + kind);
        toast.setAttribute("role", kind === "danger" ? "alert" : "status");
        toast.append(make("div", "toast-body", text));
        document.getElementById("toast-container").append(toast);
        setTimeout(function () { toast.remove(); }, 10000);
    }

    // ---- asking before acting ----

    const dialog = document.getElementById("keys-dialog");
    const list = document.getElementById("dialog-list");
    const why = document.getElementById("dialog-why");
    const reason = document.getElementById("dialog-reason");
    const also = document.getElementById("dialog-also");
    const include = document.getElementById("dialog-include");
    const cancelButton = document.getElementById("dialog-cancel");
    const confirmButton = document.getElementById("dialog-confirm");
    const mostListed = 12;
    let decided = null;

    // options: danger, reason (ask for one), lines (what will change), also (what a tick adds), act
    function ask(question, text, verb, options) {
        setText(document.getElementById("dialog-title"), question);
        setText(document.getElementById("dialog-text"), text);
        setText(confirmButton, verb);
        confirmButton.className = "btn " + (options.danger ? "btn-danger" : "btn-primary");
        const lines = options.lines || [];
        list.replaceChildren.apply(list, lines.slice(0, mostListed).map(function (line) { return make("li", "", line); }));
        if (lines.length > mostListed) {
            list.append(make("li", "", "and " + count(lines.length - mostListed) + " more"));
        }
        list.hidden = !lines.length;
        why.hidden = !options.reason;
        reason.value = "by hand";
        also.hidden = !options.also;
        include.checked = false;
        setText(document.getElementById("dialog-include-text"), options.also || "");
        cancelButton.hidden = !options.act;
        decided = options.act;
        dialog.showModal();
        (options.reason ? reason : confirmButton).focus();
    }

    function confirmed() {
        const act = decided;
        decided = null;
        dialog.close();
        if (act) {
            act();
        }
    }

    confirmButton.addEventListener("click", confirmed);
    reason.addEventListener("keydown", function (event) {
        if (event.key === "Enter") {
            event.preventDefault();
            confirmed();
        }
    });
    cancelButton.addEventListener("click", function () { dialog.close(); });
    dialog.addEventListener("close", function () { decided = null; });

    // What a reset would change, as the latest status tells it: one line a block, and the keys that a person disabled.
    function heldBy(body) {
        const lines = new Set();
        const byHand = [];
        Object.entries(latest.services).forEach(function (pair) {
            const service = pair[0];
            pair[1].keys.forEach(function (key) {
                if ((body.service && body.service !== service) || (body.key && body.key !== key.id)) {
                    return;
                }
                key.blocks.forEach(function (one) {
                    const shared = one.scope === "host" || one.scope === "model";
                    const left = one.left_ms === null ? "disabled" : "rests for " + duration(one.left_ms);
                    const mates = body.key && one.scope.startsWith("account") ? pair[1].keys.filter(function (other) {
                        return other.account === key.account && other.id !== key.id;
                    }).map(function (other) { return other.label; }) : []; // who come back with it
                    const line = (shared ? title(service) : [key.label].concat(mates).join(", ")) + ": " + left + " · "
                        + blockWords(one);
                    if (one.disabled_by && !body.key) {
                        byHand.push(key.label + " (" + one.reason + ", by " + one.disabled_by + ")");
                    } else {
                        lines.add(line);
                    }
                });
            });
        });
        return { lines: Array.from(lines), byHand: byHand };
    }

    function askReset(what, body) {
        const held = heldBy(body);
        const kept = held.byHand.length;
        ask("Reset " + what + "?", held.lines.length
            ? "This comes back, and waiting jobs start at once. If the provider still refuses a key, it goes out again:"
            : "Nothing rests" + (kept ? ", and no key is out but by a person's hand" : " or is disabled")
                + ": a reset only makes waiting jobs look for a key again.", "Reset", {
            lines: held.lines,
            also: kept ? "Also enable what a person disabled: " + held.byHand.join("; ") : "",
            act: function () {
                change(page.dataset.resetUrl, include.checked ? Object.assign({ include_disabled: true }, body) : body,
                    function (told) { return "Reset " + what + ": " + resetWords(told); });
            },
        });
    }

    // What the providers say of each key, in a dialog.
    async function checkKeys(button) {
        button.disabled = true;
        setText(button, "Checking…");
        try {
            const told = await talk(page.dataset.checkUrl, {
                method: "POST",
                headers: { "Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf") },
                body: "{}",
            });
            ask("Check of the keys", told.problems.length ? told.problems.join(". ") + "."
                : "The providers accept every key that is configured here.", "Close", {
                lines: told.keys.map(checkLine),
            });
        } catch (error) {
            say(error.message, "danger");
        }
        setText(button, "Check keys");
        button.disabled = false;
    }

    function checkLine(one) {
        const models = Object.entries(one.models).map(function (pair) { return pair[0] + (pair[1] ? "" : " is not available"); });
        const limits = Object.entries(one.limits).map(function (pair) { return limitWords(pair[0], pair[1]); });
        return one.key + ": " + [one.state].concat(models, limits, one.said || []).join(" · ");
    }

    // The keys of an account, by the labels that people know; what is no key's by its name.
    function labelsOf(service, one) {
        const its = latest.services[service].keys.filter(function (key) {
            return one.key ? key.id === one.key : one.scope.startsWith("account")
                && (one.name === key.account || one.name.startsWith(key.account + " × "));
        });
        return its.length ? its.map(function (key) { return key.label; }) : [one.name];
    }

    function resetWords(told) {
        const names = function (byService) {
            return Array.from(new Set(Object.entries(byService).flatMap(function (pair) {
                return pair[1].flatMap(function (one) { return labelsOf(pair[0], one); });
            })));
        };
        const back = names(told.brought_back);
        const left = names(told.left_disabled);
        const few = function (all) {
            return all.slice(0, 5).join(", ") + (all.length > 5 ? " and " + count(all.length - 5) + " more" : "");
        };
        return (back.length ? few(back) + (back.length === 1 ? " is back." : " are back.") : "nothing rested.")
            + (left.length ? " Still disabled by hand: " + few(left) + "." : "");
    }

    function askDisable(service, key) {
        ask("Disable " + key.label + "?", "No worker uses this key of " + title(service)
            + " until somebody resets it; a reset of all keys leaves it out. Calls in progress end as they may.", "Disable", {
            danger: true,
            reason: true,
            act: function () {
                change(page.dataset.disableUrl,
                    { service: service, key: key.id, reason: reason.value.trim() || "by hand" },
                    function (told) { return key.label + (told.newly ? " is disabled." : " was disabled already."); });
            },
        });
    }

    function button(text, label, className, act) {
        const found = make("button", "btn btn-sm " + className, text);
        found.type = "button";
        found.setAttribute("aria-label", label);
        found.addEventListener("click", act);
        return found;
    }

    // ---- one service ----

    // What stands above each service's keys, and what it means.
    const factWords = {
        "Keys ready": "Keys that may be called now.",
        "Calls in progress": "Calls that the provider has not answered yet.",
        "Jobs waiting": "In the queue, or in a worker for a key that is about to have room. Deferred: until a key is back.",
        "Queue paused": "A worker takes no more of a queue than its keys serve soon; the others stay in the queue, in order.",
        "Queue empty in": "All that waits, at the speed of the last minute.",
        "Longest wait": "Of the jobs that wait now.",
        "Calls so far": "Since the pool's state was begun. Refused: the provider said that a limit is reached (429).",
    };

    function makeFact(facts, name) {
        const group = make("div");
        const term = make("dt", "", name);
        term.title = factWords[name];
        const value = make("dd");
        const note = make("dd", "keys-fact-note");
        group.append(term, value, note);
        facts.append(group);
        return { value: value, note: note };
    }

    function setFact(its, text, note, level) {
        setText(its.value, text);
        setText(its.note, note || "");
        its.value.dataset.level = level || "";
    }

    function makeService(service) {
        const section = make("section", "keys-service");
        section.id = "service-" + service;
        const heading = make("h2", "", title(service));
        heading.id = "title-" + service;
        section.setAttribute("aria-labelledby", heading.id);
        const head = make("div", "keys-service-head");
        head.append(heading);
        if (!readOnly) {
            head.append(button("Reset all keys of " + title(service), "Reset all keys of " + title(service),
                "btn-outline-primary reset-service", function () {
                    askReset("all keys of " + title(service), { service: service });
                }));
        }
        const idle = make("div", "alert alert-danger");
        idle.setAttribute("role", "alert");
        idle.hidden = true;
        const factList = make("dl", "keys-facts");
        const facts = {};
        Object.keys(factWords).forEach(function (name) { facts[name] = makeFact(factList, name); });
        const plot = makePlot();
        const grid = make("div", "keys-grid");
        const empty = make("p", "keys-note", "No key of " + title(service) + " is configured here: set "
            + service.toUpperCase() + "_API_KEY.");
        section.append(head, idle, factList, plot.figure, empty, grid);
        document.getElementById("keys-services").append(section);
        return { section: section, idle: idle, facts: facts, plot: plot, grid: grid, empty: empty, cards: new Map(), order: "" };
    }

    // In how many milliseconds the first key is back, where none is ready; null where none comes back by itself.
    function firstBack(keys) {
        const rests = keys.filter(function (key) { return key.left_ms !== null; });
        return rests.length ? Math.min.apply(null, rests.map(function (key) { return key.left_ms; })) : null;
    }

    function showService(service, told) {
        if (!shown.has(service)) {
            shown.set(service, makeService(service));
        }
        const its = shown.get(service);
        const queue = told.queue;
        const ready = told.summary.ready;
        const total = told.summary.keys;
        const back = total && !ready ? firstBack(told.keys) : null;
        const backWords = back === null ? "until somebody resets one" : "first back in " + duration(back);
        setFact(its.facts["Keys ready"], (ready || "none") + " of " + total, total && !ready ? backWords : "",
            total && !ready ? "bad" : ready < total ? "middle" : "");
        setFact(its.facts["Calls in progress"], count(told.summary.in_flight));
        setFact(its.facts["Jobs waiting"], queue.known ? count(queue.waiting) : "not known",
            queue.known ? (queue.deferred ? count(queue.deferred) + " deferred" : "") : "the broker does not answer", queue.known ? "" : "middle");
        setFact(its.facts["Queue paused"], { none: "no", all: "yes", some: "partly", unknown: "not known" }[queue.paused],
            { none: "", all: "by every worker", some: "by " + count(queue.paused_workers) + " of "
                + plural(queue.workers, "worker"), unknown: "no worker answers" }[queue.paused],
            queue.paused === "unknown" ? "middle" : "");
        if (!queue.known) {
            setFact(its.facts["Queue empty in"], "not known");
        } else if (!queue.waiting) {
            setFact(its.facts["Queue empty in"], "empty now");
        } else if (back !== null) {
            setFact(its.facts["Queue empty in"], "more than " + duration(back), "no key is ready before");
        } else if (queue.drain_s !== null) {
            setFact(its.facts["Queue empty in"], "about " + duration(queue.drain_s * 1000));
        } else {
            setFact(its.facts["Queue empty in"], "not known", total && !ready ? "no key is ready " + backWords
                : "no job ended in the last minute", "middle");
        }
        setFact(its.facts["Longest wait"], !queue.waiting ? (queue.known ? "nothing waits" : "not known") : queue.oldest_s > 0
            ? duration(queue.oldest_s * 1000) : queue.oldest_bulk_s > 0 ? "–" : "not known yet",
            queue.oldest_bulk_s > 0 ? "bulk jobs " + duration(queue.oldest_bulk_s * 1000) : queue.oldest_s > 0 ? "at least" : "");
        setFact(its.facts["Calls so far"], count(told.summary.calls),
            told.summary.refused ? count(told.summary.refused) + " refused" : "");
        its.idle.hidden = queue.idle_s < 30;
        setText(its.idle, "Jobs wait, keys are ready and have room, and nothing has been called for "
            + duration(queue.idle_s * 1000) + ". Look at the workers' log.");
        drawPlot(its.plot, told.history, told.now_ms);
        its.empty.hidden = told.keys.length > 0;
        showCards(its, service, told.keys);
    }

    function showCards(its, service, keys) {
        const ids = new Set(keys.map(function (key) { return key.id; }));
        its.cards.forEach(function (card, id) {
            if (!ids.has(id)) {
                card.article.remove();
                its.cards.delete(id);
            }
        });
        keys.forEach(function (key) {
            if (!its.cards.has(key.id)) {
                its.cards.set(key.id, makeCard(service, key));
            }
            showCard(its.cards.get(key.id), key);
        });
        const rank = { disabled: 0, cooling: 1, ready: 2 };
        const sorted = keys.slice().sort(function (one, other) { return rank[one.state] - rank[other.state]; });
        const order = sorted.map(function (key) { return key.id; }).join();
        // What is in trouble stands first; nothing moves under the finger of somebody who is about to press a button.
        if (its.order !== order && !its.grid.contains(document.activeElement)) {
            its.order = order;
            sorted.forEach(function (key) { its.grid.append(its.cards.get(key.id).article); });
        }
    }

    function showStatus(told) {
        evicts.hidden = !told.evicts;
        setText(evicts, "Redis may throw away jobs, results and the state of the keys when it is full: its maxmemory-policy is "
            + told.evicts + ". Set it to noeviction.");
        Object.keys(told.services).forEach(function (service) { showService(service, told.services[service]); });
        const all = document.getElementById("reset-all");
        if (all) {
            all.disabled = false;
        }
    }

    // ---- one key ----

    function makeCard(service, key) {
        const article = make("article", "key-card");
        article.dataset.keyId = key.id;
        const label = make("h3", "key-label", key.label);
        label.id = "key-" + key.id;
        article.setAttribute("aria-labelledby", label.id);
        const state = make("span", "key-state");
        const head = make("div", "key-head");
        head.append(label, state);
        const account = make("span", "key-account");
        const origin = make("p", "key-origin");
        origin.append(make("span", "", key.variable), make("span", "key-id", "id " + key.id), account);
        const blocks = make("ul", "key-blocks");
        const use = make("p", "key-use");
        const more = make("details", "key-more");
        const lowest = make("summary");
        const buckets = make("div", "key-buckets");
        more.append(lowest, origin, buckets);
        article.append(head, blocks, use, more);
        const card = { article: article, service: service, state: state, account: account, blocks: blocks, use: use, more: more,
            lowest: lowest, buckets: buckets, told: key, ends: [], blocksAre: "", bucketsAre: "", meters: [] };
        if (!readOnly) {
            const foot = make("div", "key-buttons");
            card.disable = button("Disable", "Disable key " + key.label, "btn-outline-danger", function () {
                askDisable(service, card.told);
            });
            foot.append(button("Reset", "Reset key " + key.label, "btn-outline-primary", function () {
                askReset("key " + key.label, { service: service, key: key.id });
            }), card.disable);
            more.append(foot);
        }
        unfold(card);
        return card;
    }

    // Every part adds up to the whole: each call ended in one of these ways.
    function useWords(key) {
        const parts = [[key.accepted, "accepted"], [key.refused, "refused"], [key.faults, "failed"], [key.rejected, "rejected"]]
            .filter(function (part) { return part[0]; })
            .map(function (part) { return count(part[0]) + " " + part[1]; });
        return (key.calls ? plural(key.calls, "call") + ": " + parts.join(", ") : "not called yet")
            + (key.tokens ? " · " + plural(key.tokens, "token") : "")
            + (key.in_flight ? " · " + count(key.in_flight) + " in progress" : "");
    }

    function accountWords(service, key) {
        if (key.account !== key.id) {
            return "account " + key.account;
        }
        return service === "groq" ? "account not known yet" : "counts as an account of its own";
    }

    function showCard(card, key) {
        card.told = key;
        card.article.dataset.state = key.state;
        setText(card.state, key.state);
        setText(card.account, accountWords(card.service, key));
        setText(card.use, useWords(key));
        if (card.disable) {
            card.disable.disabled = key.state === "disabled" && key.blocks.some(function (one) { return one.disabled_by; });
        }
        showBlocks(card, key.blocks);
        showBuckets(card, key.buckets);
    }

    // On a phone a key takes a few lines until somebody opens it.
    function unfold(card) {
        card.more.open = !narrow.matches;
    }

    narrow.addEventListener("change", function () {
        shown.forEach(function (its) { its.cards.forEach(unfold); });
    });

    function blockWords(one) {
        const where = { key: "", account: "account: ", account_model: one.name ? "model " + one.name + ": " : "account: ",
            key_topic: one.name + ": ", model: "model " + one.name + ", all keys: ", host: "provider, all keys: " }[one.scope];
        return where + (one.disabled_by ? one.reason + ", by " + one.disabled_by : words(one.reason))
            + (one.from_tokens ? " for jobs of " + count(one.from_tokens) + " tokens or more" : "")
            + (one.since_ms ? ", since " + clockTime(one.since_ms, hourAndMinute) : "");
    }

    function showBlocks(card, blocks) {
        const are = JSON.stringify(blocks.map(blockWords));
        if (are !== card.blocksAre) {
            card.blocksAre = are;
            card.blocks.hidden = !blocks.length;
            card.blocks.replaceChildren();
            card.ends = blocks.map(function (one) {
                const item = make("li");
                const left = make("strong", "key-left");
                item.append(left, make("span", "", " · " + blockWords(one)));
                card.blocks.append(item);
                return { left: left, until: null };
            });
        }
        blocks.forEach(function (one, place) {
            card.ends[place].until = one.left_ms === null ? null : performance.now() + one.left_ms;
        });
        countDown(card);
    }

    function countDown(card) {
        card.ends.forEach(function (end) {
            setText(end.left, end.until === null ? "until reset" : duration(end.until - performance.now()));
        });
    }

    function windowName(window_ms) {
        const days = window_ms / 86400000;
        return { 1000: "a second", 60000: "a minute", 3600000: "an hour", 86400000: "a day" }[window_ms]
            || "in " + (days >= 2 ? plural(days, "day") : duration(window_ms));
    }

    function unit(dimension) {
        return { r: "requests", t: "tokens", e: "emails", i: "input tokens", o: "output tokens" }[dimension[0]] || dimension;
    }

    // A limit by its code alone, such as rpm: requests a minute.
    function limitWords(code, limit) {
        const windows = { s: "a second", m: "a minute", d: "a day", mo: "a month" };
        const parts = /^([a-z]+?)p(s|m|d|mo)$/.exec(code);
        const name = parts ? unit(parts[1]) + " " + windows[parts[2]] : code;
        return limit === undefined ? name : count(limit) + " " + name;
    }

    function limitName(one) {
        return unit(one.dimension) + " " + windowName(one.window_ms);
    }

    function showBuckets(card, buckets) {
        const are = JSON.stringify(buckets.map(function (one) { return [one.model, one.dimension, one.window_ms]; }));
        if (are !== card.bucketsAre) {
            card.bucketsAre = are;
            card.buckets.replaceChildren();
            let model = "";
            card.meters = buckets.map(function (one) {
                if (one.model !== model) {
                    model = one.model;
                    card.buckets.append(make("h4", "key-model", model));
                }
                return makeMeter(card.buckets, one);
            });
        }
        let lowest = null;
        buckets.forEach(function (one, place) {
            const its = card.meters[place];
            const left = Math.min(Math.max(one.remaining, 0), one.limit);
            const share = one.limit > 0 ? left / one.limit : 0;
            const text = count(left) + " of " + count(one.limit) + " left";
            setText(its.number, text);
            its.meter.setAttribute("aria-valuemax", String(Math.round(one.limit)));
            its.meter.setAttribute("aria-valuenow", String(Math.round(left)));
            its.meter.setAttribute("aria-valuetext", text);
            its.bar.style.width = (share * 100).toFixed(1) + "%";
            its.bar.dataset.level = share < 0.1 ? "low" : share < 0.3 ? "middle" : "high";
            if (lowest === null || share < lowest.share) {
                lowest = { share: share, name: limitName(one) };
            }
        });
        setText(card.lowest, (readOnly ? "Limits · " : "Limits and actions · ") + (lowest === null ? "none known yet"
            : "lowest: " + Math.floor(lowest.share * 100) + " % left of " + lowest.name));
    }

    function makeMeter(buckets, one) {
        const row = make("div", "key-bucket");
        const name = limitName(one);
        const number = make("span", "key-bucket-number");
        const meter = make("div", "key-meter");
        const bar = make("div", "key-meter-bar");
        meter.setAttribute("role", "meter");
        meter.setAttribute("aria-valuemin", "0");
        meter.setAttribute("aria-label", "Left of the " + name + (one.model ? ", " + one.model : ""));
        meter.append(bar);
        row.append(make("span", "key-bucket-name", name.charAt(0).toUpperCase() + name.slice(1)), number, meter);
        buckets.append(row);
        return { number: number, meter: meter, bar: bar };
    }

    // ---- the last hour ----

    const svg = "http://www.w3.org/2000/svg";
    const plotHeight = 48;

    function shape(name, className) {
        const found = document.createElementNS(svg, name);
        found.setAttribute("class", className);
        return found;
    }

    function makePlot() {
        const figure = make("figure", "keys-plot");
        const caption = make("figcaption");
        const words = make("span");
        caption.append(words);
        [["calls", "calls"], ["refused", "of them refused (429)"]].forEach(function (pair) {
            const entry = make("span", "plot-legend");
            entry.append(make("span", "plot-key plot-key-" + pair[0]), pair[1]);
            caption.append(entry);
        });
        const drawing = document.createElementNS(svg, "svg");
        drawing.setAttribute("viewBox", "0 0 600 " + plotHeight);
        drawing.setAttribute("preserveAspectRatio", "none");
        drawing.setAttribute("role", "img");
        const minutes = [];
        for (let minute = 0; minute < 60; minute += 1) {
            const group = shape("g", "plot-minute");
            const words_ = document.createElementNS(svg, "title");
            const space = shape("rect", "plot-space");
            space.setAttribute("x", String(minute * 10));
            space.setAttribute("width", "10");
            space.setAttribute("height", String(plotHeight));
            const bars = ["calls", "refused"].map(function (kind) {
                const bar = shape("rect", "plot-" + kind);
                bar.setAttribute("x", String(minute * 10 + 1));
                bar.setAttribute("width", "8");
                return bar;
            });
            group.append(words_, space, bars[0], bars[1]);
            drawing.append(group);
            minutes.push({ words: words_, bars: bars });
        }
        const highest = make("span");
        const scale = make("div", "plot-scale");
        scale.append(highest, make("span", "", "0"));
        const times = make("div", "plot-times");
        const ticks = [make("span"), make("span"), make("span", "", "now")];
        times.append(ticks[0], ticks[1], ticks[2]);
        figure.append(caption, scale, drawing, times);
        return { figure: figure, drawing: drawing, minutes: minutes, words: words, highest: highest, ticks: ticks };
    }

    function drawPlot(plot, history, now_ms) {
        const byMinute = new Map(history.map(function (one) { return [Math.round(one.at_ms / 60000), one]; }));
        const highest = Math.max.apply(null, history.map(function (one) { return one.calls; }).concat(1));
        const thisMinute = Math.floor(now_ms / 60000);
        const at = function (minute) { return new Date(minute * 60000).toLocaleTimeString([], hourAndMinute); };
        let calls = 0;
        let refused = 0;
        plot.minutes.forEach(function (its, place) {
            const minute = thisMinute - 59 + place;
            const seen = byMinute.get(minute);
            const one = seen || { calls: 0, refused: 0 };
            calls += one.calls;
            refused += one.refused;
            setText(its.words, at(minute) + ": " + (seen
                ? plural(one.calls, "call") + ", " + count(one.refused) + " refused" : "not seen, Flower was not running"));
            [one.calls, one.refused].forEach(function (number, kind) {
                const height = number ? Math.max(1.5, number / highest * plotHeight) : 0;
                its.bars[kind].setAttribute("height", height.toFixed(2));
                its.bars[kind].setAttribute("y", (plotHeight - height).toFixed(2));
            });
        });
        setText(plot.highest, count(highest));
        setText(plot.ticks[0], at(thisMinute - 59));
        setText(plot.ticks[1], at(thisMinute - 30));
        const text = "Calls a minute, " + (history.length < 60 ? "since Flower's start" : "last hour") + ": "
            + count(calls) + ", " + count(refused) + " refused";
        setText(plot.words, text);
        plot.drawing.setAttribute("aria-label", text);
    }

    // ---- the audit trail ----

    const auditRows = document.getElementById("keys-audit-rows");
    const auditBy = document.getElementById("audit-by");
    const auditOlder = document.getElementById("audit-older");
    const auditNewest = document.getElementById("audit-newest");
    const eventWords = { cooled: "rests", unfit: "is not asked for it", disabled: "disabled", reset: "reset", freed: "enabled again",
        limit_learned: "limit learned", account_learned: "account learned", lease_expired: "call not reported in time" };
    const scopeWords = { key: "key", account: "account", account_model: "account × model", key_topic: "key ×", model: "model",
        host: "provider", service: "all keys of", dead_letter: "job" };
    let auditBefore = null; // where the page that is shown begins; null: it is the newest one
    let auditNext = null;

    function auditQuery() {
        return "?count=30&by=" + auditBy.value + (auditBefore ? "&before=" + auditBefore : "");
    }

    // Why an entry was made; a limit that was learned, such as rpm=30, in words.
    function auditWhy(entry) {
        const limit = /^([a-z]+p(?:s|m|d|mo))(?:=(\d+)| (.*))$/.exec(entry.reason);
        return !limit ? words(entry.reason) : limit[2] ? limitWords(limit[1], Number(limit[2]))
            : limitWords(limit[1]) + " " + limit[3];
    }

    function auditMessage(text) {
        auditRows.dataset.are = "";
        const cell = make("td", "", text);
        cell.colSpan = 6;
        const row = make("tr");
        row.append(cell);
        auditRows.replaceChildren(row);
    }

    // Who did it: a person, a program, or a job, which Flower has a page of.
    function author(by) {
        const cell = make("td");
        const job = /^(?:task )?([0-9a-f]{8}-[0-9a-f-]{27})(.*)$/.exec(by);
        if (!job) {
            setText(cell, by);
            return cell;
        }
        const link = make("a", "", "job " + job[1].slice(0, 8) + "…");
        link.href = page.dataset.taskUrl.replace("TASK", job[1]);
        link.title = job[1];
        cell.append(link, job[2]);
        return cell;
    }

    function showAudit(told) {
        auditNext = told.next_before;
        auditOlder.hidden = auditNext === null;
        auditNewest.hidden = auditBefore === null;
        if (!told.entries.length) {
            auditMessage("Nothing yet.");
            return;
        }
        const are = JSON.stringify(told.entries);
        if (auditRows.dataset.are === are) {
            return;
        }
        auditRows.dataset.are = are;
        auditRows.replaceChildren.apply(auditRows, told.entries.map(function (entry) {
            const row = make("tr");
            [clockTime(entry.at_ms), entry.service, eventWords[entry.event] || entry.event,
                (scopeWords[entry.scope] || entry.scope) + " " + entry.name, auditWhy(entry)].forEach(
                function (text) { row.append(make("td", "", text)); });
            row.append(author(entry.by));
            return row;
        }));
    }

    function turnTo(before) {
        auditBefore = before;
        lookAnew();
    }

    auditBy.addEventListener("change", function () { turnTo(null); });
    auditOlder.addEventListener("click", function () { turnTo(auditNext); });
    auditNewest.addEventListener("click", function () { turnTo(null); });

    // ---- dead letters ----

    const mostLetters = 500;
    const kindWords = { failed: "Refused by the provider, or broken.", expired: "Its time was over.",
        unknown: "An email that may have been sent.", timeout: "Stopped at its time limit.",
        poison: "A message that cannot be run, or that workers died of." };
    const lettersMore = document.getElementById("letters-more");
    let lettersShown = narrow.matches ? 5 : 20;
    let seenUntil_ms = 0; // every letter that was counted ended before this instant
    const kind = document.getElementById("letters-kind");
    const rows = document.getElementById("letters-rows");

    function lettersQuery() {
        return "?limit=" + lettersShown + (kind.value ? "&kind=" + kind.value : "");
    }

    function matching(told) {
        return Object.values(told.by_service).reduce(function (sum, kinds) {
            return sum + Object.entries(kinds).reduce(function (inner, pair) {
                return inner + (!kind.value || pair[0] === kind.value ? pair[1] : 0);
            }, 0);
        }, 0);
    }

    function showLetters(told) {
        const count_ = matching(told);
        lettersMore.hidden = count_ <= told.letters.length || lettersShown >= mostLetters;
        seenUntil_ms = told.letters.length ? told.letters[0].at_ms + 1 : 0;
        setText(document.getElementById("letters-count"), !told.total ? "No job ended without success."
            : plural(told.total, "job") + " ended for good without success and can be looked at"
            + (count_ > told.letters.length ? "; the latest " + count(told.letters.length) + " of " + count(count_)
                + " are shown." : "."));
        document.getElementById("letters-table").hidden = !told.letters.length;
        ["letters-replay", "letters-drop"].forEach(function (id) {
            const found = document.getElementById(id);
            if (found) {
                found.disabled = !count_;
                found.dataset.count = count_;
            }
        });
        const are = JSON.stringify(told.letters);
        if (rows.dataset.are !== are) {
            rows.dataset.are = are;
            rows.replaceChildren.apply(rows, told.letters.map(makeLetter));
        }
    }

    function showUnknown(answers) {
        const section = document.getElementById("keys-unknown");
        const are = JSON.stringify(answers);
        if (section.dataset.are === are) {
            return;
        }
        section.dataset.are = are;
        section.hidden = !answers.length;
        const list = document.getElementById("unknown-rows");
        list.replaceChildren.apply(list, answers.map(function (one) {
            const row = make("tr");
            row.append(make("td", "", clockTime(one.last_ms)), make("td", "", one.service),
                make("td", "", one.kind.replaceAll("_", " ")), make("td", "", one.shape),
                make("td", "", count(one.count)));
            return row;
        }));
    }

    function makeLetter(letter) {
        const row = make("tr");
        row.dataset.job = letter.id;
        const task = make("td", "", letter.task);
        task.append(make("small", "letter-job", letter.id));
        const tries = make("td", "", letter.calls ? plural(letter.calls, "call") : "no call");
        letter.trail.slice(-3).forEach(function (call) {
            tries.append(make("small", "letter-call", call.key + " " + call.code.replaceAll("_", " ")
                + (call.in_doubt ? " (may have been carried out)" : "")));
        });
        const kindCell = make("td", "", letter.kind);
        kindCell.title = kindWords[letter.kind] || "";
        row.append(make("td", "", clockTime(letter.at_ms)), task, kindCell, make("td", "", letter.reason), tries);
        if (!readOnly) {
            const cell = make("td");
            const buttons = make("div", "letter-buttons");
            const replay = button("Replay", "Replay job " + letter.id, "btn-outline-primary", function () {
                askReplay(letter);
            });
            replay.disabled = !letter.replayable;
            replay.title = letter.replayable ? "" : letter.note || "Its arguments are no longer kept.";
            buttons.append(replay, button("Drop", "Drop the letter of job " + letter.id, "btn-outline-danger", function () {
                askDrop("the letter of " + letter.id, { id: letter.id });
            }));
            cell.append(buttons);
            row.append(cell);
        }
        return row;
    }

    function replayed(told) {
        const refused = told.refused.length ? " " + plural(told.refused.length, "job") + " not: "
            + told.refused[0].reason + (told.refused.length > 1 ? " And others." : "") : "";
        return plural(told.replayed.length, "job") + " sent again." + refused + (told.more ? " There are more." : "");
    }

    function askReplay(letter) {
        const text = letter.needs_force
            ? "Nobody knows whether this email was sent, and it may be too long ago to find out: it may arrive twice."
            : "The job runs again with the same id and arguments"
                + (letter.in_doubt && letter.service === "resend" ? "; an email keeps its idempotency key." : ".");
        ask("Replay " + letter.task + "?", text, letter.needs_force ? "Send all the same" : "Replay", {
            danger: letter.needs_force,
            act: function () {
                change(page.dataset.replayUrl, letter.needs_force ? { id: letter.id, force: true } : { id: letter.id },
                    replayed);
            },
        });
    }

    function askDrop(what, body) {
        ask("Drop " + what + "?", "What failed, and its arguments, are gone for good"
            + (body.id ? "." : "; at most 1,000 at once. Letters that come meanwhile stay."), "Drop", {
            danger: true,
            act: function () {
                change(page.dataset.dropUrl, body, function (told) {
                    return plural(told.dropped, "letter") + " dropped." + (told.more ? " There are more." : "");
                });
            },
        });
    }

    // All that was seen when the button was pressed, and nothing that came after.
    function those() {
        return Object.assign({ before: seenUntil_ms }, kind.value ? { kind: kind.value } : {});
    }

    function bulk(id, act) {
        const found = document.getElementById(id);
        if (found) {
            found.addEventListener("click", function () {
                act(plural(Number(found.dataset.count), kind.value ? kind.value + " letter" : "letter"), those());
            });
        }
    }

    bulk("letters-replay", function (what, body) {
        ask("Replay " + what + "?", "The jobs run again with the same ids and arguments, at most 1,000 at once. Emails"
            + " that might arrive twice stay here.", "Replay", {
            act: function () { change(page.dataset.replayUrl, body, replayed); },
        });
    });
    bulk("letters-drop", askDrop);
    lettersMore.addEventListener("click", function () {
        lettersShown = Math.min(mostLetters, lettersShown + 100);
        lookAnew();
    });
    kind.addEventListener("change", lookAnew);

    // ---- begin ----

    const resetAll = document.getElementById("reset-all");
    if (resetAll) {
        resetAll.addEventListener("click", function () { askReset("all keys of all services", {}); });
    }
    const checkAll = document.getElementById("check-all");
    if (checkAll) {
        checkAll.addEventListener("click", function () { checkKeys(checkAll); });
    }
    setInterval(function () {
        shown.forEach(function (its) { its.cards.forEach(countDown); });
        showFreshness();
    }, 250);
    document.addEventListener("visibilitychange", function () {
        if (document.visibilityState === "visible") {
            look();
        }
    });
    look();
}());
