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
    const audit_every_ms = 3000;
    const give_up_ms = 10000;
    const give_up_on_change_ms = 65000; // a replay of many takes its time
    const shown = new Map(); // service name → its elements
    const trouble = document.getElementById("keys-trouble");
    const freshness = document.getElementById("keys-freshness");
    let auditAt = 0;
    let asking = null;
    let timer = null;

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

    function clockTime(at_ms) {
        const at = new Date(at_ms);
        const today = new Date().toDateString() === at.toDateString();
        return (today ? "" : at.toLocaleDateString() + " ") + at.toLocaleTimeString();
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
                throw new Error(told.message || "Flower answered " + answer.status + ".");
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
        if (asking) {
            return asking;
        }
        asking = (async function () {
            try {
                showStatus(await talk(page.dataset.statusUrl));
                if (performance.now() - auditAt >= audit_every_ms) {
                    auditAt = performance.now();
                    showLetters(await talk(page.dataset.lettersUrl + lettersQuery()));
                    showAudit(await talk(page.dataset.auditUrl + "?count=30"));
                }
                trouble.hidden = true;
                setText(freshness, "Live: every second, without a reload.");
            } catch (error) {
                setText(trouble, error.message + " What you see may be old; trying again.");
                trouble.hidden = false;
                setText(freshness, "Not live.");
            }
        }());
        await asking;
        asking = null;
        clearTimeout(timer);
        if (document.visibilityState === "visible") {
            timer = setTimeout(look, every_ms);
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
        auditAt = -audit_every_ms;
        if (asking) {
            await asking; // it may have begun before the change
        }
        await look();
    }

    function say(text, kind) {
        const toast = make("div", "toast show text-bg-" + kind);
        toast.setAttribute("role", kind === "danger" ? "alert" : "status");
        toast.append(make("div", "toast-body", text));
        document.getElementById("toast-container").append(toast);
        setTimeout(function () { toast.remove(); }, 6000);
    }

    // ---- asking before acting ----

    const dialog = document.getElementById("keys-dialog");
    const why = document.getElementById("dialog-why");
    const reason = document.getElementById("dialog-reason");
    const confirmButton = document.getElementById("dialog-confirm");
    let decided = null;

    function ask(question, text, verb, options) {
        setText(document.getElementById("dialog-title"), question);
        setText(document.getElementById("dialog-text"), text);
        setText(confirmButton, verb);
        confirmButton.className = "btn " + (options.danger ? "btn-danger" : "btn-primary");
        why.hidden = !options.reason;
        reason.value = "by hand";
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
    document.getElementById("dialog-cancel").addEventListener("click", function () { dialog.close(); });
    dialog.addEventListener("close", function () { decided = null; });

    function askReset(what, body) {
        ask("Reset " + what + "?",
            "Cooldowns and disabled marks are cleared, and waiting jobs start at once. If a provider still refuses the"
            + " key, it rests again.", "Reset", {
                act: function () {
                    change(page.dataset.resetUrl, body, function (told) {
                        const cleared = Object.values(told.reset).reduce(function (sum, one) { return sum + one; }, 0);
                        return "Reset " + what + ": " + (cleared ? plural(cleared, "block") + " cleared." : "nothing had rested.");
                    });
                },
            });
    }

    function askDisable(service, key) {
        ask("Disable " + key.label + "?", "No worker uses this key of " + title(service)
            + " until somebody resets it. Calls that are under way end as they may.", "Disable", {
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

    function fact(list, name) {
        const group = make("div");
        const value = make("dd");
        group.append(make("dt", "", name), value);
        list.append(group);
        return value;
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
            head.append(button("Reset all of " + title(service), "Reset all keys of " + title(service),
                "btn-outline-primary reset-service", function () {
                    askReset("all keys of " + title(service), { service: service });
                }));
        }
        const list = make("dl", "keys-facts");
        const facts = {};
        ["Serving", "In flight", "Jobs waiting", "Paused", "Empty in", "Oldest job waits", "Calls", "Refusals"].forEach(
            function (name) { facts[name] = fact(list, name); });
        const plot = makePlot();
        const grid = make("div", "keys-grid");
        const empty = make("p", "keys-note", "No key of " + title(service) + " is configured here: set "
            + service.toUpperCase() + "_API_KEY.");
        section.append(head, list, plot.figure, empty, grid);
        document.getElementById("keys-services").append(section);
        return { section: section, facts: facts, plot: plot, grid: grid, empty: empty, cards: new Map() };
    }

    function showService(service, told) {
        if (!shown.has(service)) {
            shown.set(service, makeService(service));
        }
        const its = shown.get(service);
        const summary = told.summary;
        const queue = told.queue;
        setText(its.facts.Serving, summary.ready + " of " + summary.keys);
        setText(its.facts["In flight"], count(summary.in_flight));
        setText(its.facts["Jobs waiting"], count(queue.waiting)
            + (queue.held + queue.deferred ? " (" + count(queue.held + queue.deferred) + " deferred)" : ""));
        setText(its.facts.Paused, { none: "no", all: "by every worker", some: "by " + queue.paused_workers + " of "
            + plural(queue.workers, "worker"), unknown: "no worker answers" }[queue.paused]);
        setText(its.facts["Empty in"], !queue.waiting ? "empty" : queue.drain_s === null ? "nothing moves"
            : "about " + duration(queue.drain_s * 1000));
        setText(its.facts["Oldest job waits"], queue.oldest_s > 0 ? duration(queue.oldest_s * 1000) + " or more" : "–");
        setText(its.facts.Calls, count(summary.calls));
        setText(its.facts.Refusals, count(summary.refused));
        drawPlot(its.plot, told.history, told.now_ms);
        its.empty.hidden = told.keys.length > 0;
        const ids = new Set(told.keys.map(function (key) { return key.id; }));
        its.cards.forEach(function (card, id) {
            if (!ids.has(id)) {
                card.article.remove();
                its.cards.delete(id);
            }
        });
        told.keys.forEach(function (key) {
            if (!its.cards.has(key.id)) {
                const card = makeCard(service, key);
                its.cards.set(key.id, card);
                its.grid.append(card.article);
            }
            showCard(its.cards.get(key.id), key);
        });
    }

    function showStatus(told) {
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
        const origin = make("p", "key-origin");
        const blocks = make("ul", "key-blocks");
        const list = make("dl", "key-facts");
        const facts = {};
        ["Calls", "Accepted", "Refusals", "Tokens", "In flight"].forEach(function (name) {
            facts[name] = fact(list, name);
        });
        const buckets = make("div", "key-buckets");
        article.append(head, origin, blocks, list, buckets);
        const card = { article: article, state: state, origin: origin, blocks: blocks, facts: facts, buckets: buckets,
            told: key, ends: [], blocksAre: "", bucketsAre: "", meters: [] };
        if (!readOnly) {
            const foot = make("div", "key-buttons");
            card.disable = button("Disable", "Disable key " + key.label, "btn-outline-danger", function () {
                askDisable(service, card.told);
            });
            foot.append(button("Reset", "Reset key " + key.label, "btn-outline-primary", function () {
                askReset("key " + key.label, { service: service, key: key.id });
            }), card.disable);
            article.append(foot);
        }
        return card;
    }

    function showCard(card, key) {
        card.told = key;
        card.article.dataset.state = key.state;
        setText(card.state, key.state);
        setText(card.origin, (key.account === key.id ? "account not known yet" : "account " + key.account)
            + " · " + key.variable + " · id " + key.id);
        setText(card.facts.Calls, count(key.calls));
        setText(card.facts.Accepted, count(key.accepted));
        setText(card.facts.Refusals, count(key.refused));
        setText(card.facts.Tokens, count(key.tokens));
        setText(card.facts["In flight"], count(key.in_flight));
        if (card.disable) {
            card.disable.disabled = key.state === "disabled";
        }
        showBlocks(card, key.blocks);
        showBuckets(card, key.buckets);
    }

    function showBlocks(card, blocks) {
        const are = JSON.stringify(blocks.map(function (one) {
            return [one.scope, one.name, one.state, one.reason, one.since_ms, one.from_tokens];
        }));
        if (are !== card.blocksAre) {
            card.blocksAre = are;
            card.blocks.replaceChildren();
            card.ends = blocks.map(function (one) {
                const item = make("li");
                const left = make("strong", "key-left");
                const where = { key: "", account: "account: ", account_model: "model " + one.name + ": ",
                    key_topic: one.name + ": ", model: "model " + one.name + ", all keys: ",
                    host: "provider, all keys: " }[one.scope];
                item.append(left, make("span", "", " · " + where + one.reason.replaceAll("_", " ")
                    + (one.from_tokens ? " for jobs of " + count(one.from_tokens) + " tokens or more" : "")
                    + (one.since_ms ? ", since " + clockTime(one.since_ms) : "")));
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
        return { 1000: "a second", 60000: "a minute", 86400000: "a day" }[window_ms] || "in " + duration(window_ms);
    }

    function showBuckets(card, buckets) {
        const are = JSON.stringify(buckets.map(function (one) { return [one.model, one.dimension, one.window_ms]; }));
        if (are !== card.bucketsAre) {
            card.bucketsAre = are;
            card.buckets.replaceChildren();
            card.meters = buckets.map(function (one) {
                const row = make("div", "key-bucket");
                const name = make("span", "key-bucket-name", one.dimension + (one.model ? " · " + one.model : ""));
                const number = make("span", "key-bucket-number");
                const meter = make("div", "key-meter");
                const bar = make("div", "key-meter-bar");
                meter.setAttribute("role", "meter");
                meter.setAttribute("aria-valuemin", "0");
                meter.setAttribute("aria-label", "Head-room of " + name.textContent + ", " + windowName(one.window_ms));
                meter.append(bar);
                row.append(name, number, meter);
                card.buckets.append(row);
                return { number: number, meter: meter, bar: bar };
            });
        }
        buckets.forEach(function (one, place) {
            const its = card.meters[place];
            const left = Math.min(Math.max(one.remaining, 0), one.limit);
            const share = one.limit > 0 ? left / one.limit : 0;
            const text = count(left) + " of " + count(one.limit) + " " + windowName(one.window_ms);
            setText(its.number, text);
            its.meter.setAttribute("aria-valuemax", String(Math.round(one.limit)));
            its.meter.setAttribute("aria-valuenow", String(Math.round(left)));
            its.meter.setAttribute("aria-valuetext", text);
            its.bar.style.width = (share * 100).toFixed(1) + "%";
            its.bar.dataset.level = share < 0.1 ? "low" : share < 0.3 ? "middle" : "high";
        });
    }

    // ---- the last hour ----

    const svg = "http://www.w3.org/2000/svg";
    const plotHeight = 48;

    function makePlot() {
        const figure = make("figure", "keys-plot");
        const drawing = document.createElementNS(svg, "svg");
        drawing.setAttribute("viewBox", "0 0 600 " + plotHeight);
        drawing.setAttribute("preserveAspectRatio", "none");
        drawing.setAttribute("role", "img");
        const bars = [];
        for (let minute = 0; minute < 60; minute += 1) {
            bars.push(["calls", "refused"].map(function (kind) {
                const bar = document.createElementNS(svg, "rect");
                bar.setAttribute("x", String(minute * 10 + 1));
                bar.setAttribute("width", "8");
                bar.setAttribute("class", "plot-" + kind);
                drawing.append(bar);
                return bar;
            }));
        }
        const caption = make("figcaption");
        figure.append(drawing, caption);
        return { figure: figure, drawing: drawing, bars: bars, caption: caption };
    }

    function drawPlot(plot, history, now_ms) {
        const byMinute = new Map(history.map(function (one) { return [Math.round(one.at_ms / 60000), one]; }));
        const highest = Math.max.apply(null, history.map(function (one) { return one.calls; }).concat(1));
        const thisMinute = Math.floor(now_ms / 60000);
        let calls = 0;
        let refused = 0;
        plot.bars.forEach(function (pair, place) {
            const one = byMinute.get(thisMinute - 59 + place) || { calls: 0, refused: 0 };
            calls += one.calls;
            refused += one.refused;
            [one.calls, one.refused].forEach(function (number, kind) {
                const height = number ? Math.max(1.5, number / highest * plotHeight) : 0;
                pair[kind].setAttribute("height", height.toFixed(2));
                pair[kind].setAttribute("y", (plotHeight - height).toFixed(2));
            });
        });
        const text = "Last hour, by minute: " + plural(calls, "call") + ", " + plural(refused, "refusal")
            + (history.length < 60 ? " (seen since Flower's start)" : "");
        setText(plot.caption, text);
        plot.drawing.setAttribute("aria-label", text);
    }

    // ---- the audit trail ----

    function showAudit(told) {
        const rows = document.getElementById("keys-audit-rows");
        const are = JSON.stringify(told.entries);
        if (!told.entries.length || rows.dataset.are === are) {
            return;
        }
        rows.dataset.are = are;
        rows.replaceChildren.apply(rows, told.entries.map(function (entry) {
            const row = make("tr");
            [clockTime(entry.at_ms), entry.service, entry.event, entry.scope + " " + entry.name,
                entry.reason.replaceAll("_", " "), entry.by].forEach(function (text) { row.append(make("td", "", text)); });
            return row;
        }));
    }

    // ---- dead letters ----

    const lettersShown = 50;
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
        row.append(make("td", "", clockTime(letter.at_ms)), task, make("td", "", letter.kind),
            make("td", "", letter.reason), tries);
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
        ask("Drop " + what + "?", "What failed, and its arguments, are gone for good.", "Drop", {
            danger: true,
            act: function () {
                change(page.dataset.dropUrl, body, function (told) {
                    return plural(told.dropped, "letter") + " dropped." + (told.more ? " There are more." : "");
                });
            },
        });
    }

    function those() {
        return kind.value ? { kind: kind.value } : { all: true };
    }

    function bulk(id, act) {
        const found = document.getElementById(id);
        if (found) {
            found.addEventListener("click", function () {
                act(plural(Number(found.dataset.count), kind.value ? kind.value + " letter" : "letter"));
            });
        }
    }

    bulk("letters-replay", function (what) {
        ask("Replay " + what + "?", "The jobs run again with the same ids and arguments, at most 1,000 at once. Emails"
            + " that might arrive twice stay here.", "Replay", {
            act: function () { change(page.dataset.replayUrl, those(), replayed); },
        });
    });
    bulk("letters-drop", function (what) { askDrop(what, those()); });
    kind.addEventListener("change", function () {
        auditAt = -audit_every_ms;
        look();
    });

    // ---- begin ----

    const resetAll = document.getElementById("reset-all");
    if (resetAll) {
        resetAll.addEventListener("click", function () { askReset("all keys of all services", {}); });
    }
    setInterval(function () {
        shown.forEach(function (its) { its.cards.forEach(countDown); });
    }, 250);
    document.addEventListener("visibilitychange", function () {
        if (document.visibilityState === "visible") {
            look();
        }
    });
    look();
}());
