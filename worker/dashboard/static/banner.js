// Shows problems above everything else, and the worst one in the tab's title.

import { make, page, setText } from "./elements.js";
import { showEntries } from "./focus.js";
import { clock, count, duration, firstBack, pauseOf, plural, title, words } from "./words.js";

const idle_s = 30; // no call for this long, although keys have room, is a problem
const old_s = 300; // a longer wait is a problem; the alert KeywheelQueueOld has the same limit
const list = document.getElementById("keys-wrong");
const well = document.getElementById("keys-well");
const plainTitle = document.title;
const rank = { bad: 0, middle: 1 };
let shown = []; // the problems on the page, the worst first

// level: bad (nothing runs) or middle; text: a sentence that stays as long as the problem; brief:
// the words for the tab's title; now: a sentence that changes all the time; until: the end of the
// countdown, by performance.now(); awaited: the words before the countdown
function problem(level, service, text, brief, more) {
    return Object.assign(
        {
            level: level,
            service: service,
            text: text,
            brief: brief,
            now: "",
            until: null,
            awaited: "",
        },
        more
    );
}

function noKeyProblem(service, pool) {
    const back = firstBack(pool.keys);
    const name = title(service);
    const pause = pauseOf(pool.keys);
    const now = pool.queue.known ? waitingWords(pool.queue.waiting) : "";
    if (pause) {
        return problem(
            "middle",
            service,
            name + " is paused by " + pause.disabled_by + ": " + pause.reason + ".",
            name + " paused",
            pause.left_ms === null
                ? { now: now }
                : { now: now, until: performance.now() + pause.left_ms, awaited: "resumes in" }
        );
    }
    if (back === null) {
        return problem(
            "bad",
            service,
            "No key of " + name + " can be used until a person enables or resets one.",
            name + ": no key",
            { now: now }
        );
    }
    return problem("bad", service, "No key of " + name + " can be used now.", name,
        { now: now, until: performance.now() + back, awaited: "next key in" });
}

function waitingWords(waiting) {
    return waiting ? plural(waiting, "job") + (waiting === 1 ? " waits." : " wait.") : "";
}

// Reports the keys that the provider refused. A key that a person disabled is not a problem.
function refusedKeys(service, pool) {
    const keys = pool.keys.filter(function (key) {
        return (
            key.state === "disabled"
            && !key.blocks.some(function (block) {
                return block.disabled_by;
            })
        );
    });
    if (!keys.length) {
        return [];
    }
    const which =
        keys.length === 1
            ? "The key "
              + keys[0].label
              + " of "
              + title(service)
              + " is disabled: "
              + words(keys[0].reason)
              + "."
            : plural(keys.length, "key") + " of " + title(service) + " are disabled.";
    return [problem("middle", service, which, plural(keys.length, "key") + " disabled")];
}

function problemsOfService(service, pool) {
    const queue = pool.queue;
    const name = title(service);
    const found =
        pool.summary.keys && !pool.summary.ready
            ? [noKeyProblem(service, pool)]
            : refusedKeys(service, pool);
    const now = waitingWords(queue.waiting);
    if (queue.known && queue.waiting && !queue.workers) {
        found.push(
            problem(
                "bad",
                service,
                "Jobs for " + name + " cannot start: no worker answers.",
                "no worker",
                { now: now }
            )
        );
    }
    if (queue.known && queue.waiting && !pool.summary.keys) {
        found.push(
            problem(
                "bad",
                service,
                "Jobs for " + name + " wait, but no key of " + name + " is configured here.",
                name + ": no key",
                { now: now }
            )
        );
    }
    if (queue.idle_s >= idle_s) {
        found.push(
            problem(
                "bad",
                service,
                "Jobs for "
                    + name
                    + " wait and keys have room, but no call is made. Look at the workers' log.",
                name + ": no calls",
                { now: "The last call was " + duration(queue.idle_s * 1000) + " ago." }
            )
        );
    }
    if (queue.oldest_s > old_s && pool.summary.ready) {
        found.push(
            problem(
                "middle",
                service,
                "Jobs for " + name + " have waited for more than " + duration(old_s * 1000) + ".",
                name + ": jobs wait",
                { now: "The longest wait is " + duration(queue.oldest_s * 1000) + "." }
            )
        );
    }
    return found;
}

function problemsOf(status) {
    const pairs = Object.entries(status.services);
    const found = pairs.flatMap(function (pair) { return problemsOfService(pair[0], pair[1]); });
    const pools = pairs.map(function (pair) { return pair[1]; });
    if (!pools.some(function (pool) { return pool.summary.keys; })) {
        found.push(problem("middle", null, "No key is configured here.", "no key"));
    } else if (
        pools.every(function (pool) {
            return pool.queue.known && !pool.queue.workers && !pool.queue.waiting;
        })
    ) {
        found.push(
            problem("middle", null, "No worker answers, so no job would start.", "no worker")
        );
    }
    if (pairs.some(function (pair) { return !pair[1].queue.known; })) {
        found.push(
            problem(
                "bad",
                null,
                "The broker does not answer, so it is not known which jobs wait.",
                "no broker"
            )
        );
    }
    if (status.evicts) {
        found.push(
            problem(
                "middle",
                null,
                "When Redis is full, it may delete jobs, results and the state of the keys: its"
                    + " maxmemory-policy is "
                    + status.evicts
                    + ". Set it to noeviction.",
                "Redis may delete jobs"
            )
        );
    }
    return found.sort(function (first, second) { return rank[first.level] - rank[second.level]; });
}

function makeItem(problem) {
    const item = make("li", "keys-wrong-" + problem.level);
    item.append(make("span", "", problem.text + " "));
    if (problem.timed) {
        // A screen reader does not read a timer aloud whenever it changes.
        const timer = make("strong", "keys-wrong-timer");
        timer.setAttribute("role", "timer");
        item.append(timer, " ");
    }
    if (problem.service) {
        const link = make("a", "", "Show " + title(problem.service));
        link.href = "#service-" + problem.service;
        item.append(link);
    }
    return item;
}

// Returns whether a part of the problem's text changes all the time.
function isTimed(problem) {
    return problem.until !== null || problem.now !== "";
}

export function showBanner(status) {
    shown = problemsOf(status);
    const entries = shown.map(function (problem) {
        return {
            level: problem.level,
            text: problem.text,
            service: problem.service,
            timed: isTimed(problem),
        };
    });
    showEntries(list, entries, makeItem);
    list.hidden = !shown.length;
    well.hidden = shown.length > 0;
    const serving = Object.entries(status.services)
        .filter(function (pair) {
            return pair[1].summary.keys;
        })
        .map(function (pair) {
            return (
                count(pair[1].summary.ready)
                + " of "
                + plural(pair[1].summary.keys, "key")
                + " of "
                + title(pair[0])
            );
        });
    const isOne = serving.length === 1 && serving[0].startsWith("1 ");
    setText(well, "All is well: " + serving.join(" and ") + (isOne ? " is ready." : " are ready."));
    page.dataset.level = shown.length ? shown[0].level : "well";
    tickBanner(true);
}

// live: whether the page shows the present state
export function tickBanner(live) {
    const timers = list.querySelectorAll(".keys-wrong-timer");
    shown.filter(isTimed).forEach(function (problem, index) {
        const awaited = problem.until === null ? "" : problem.awaited.charAt(0).toUpperCase()
            + problem.awaited.slice(1) + " " + clock(problem.until - performance.now()) + ".";
        setText(timers[index], [problem.now, awaited].filter(Boolean).join(" "));
    });
    const worst = shown[0];
    const brief = !worst
        ? plainTitle
        : (worst.level === "bad" ? "🔴 " : "🟠 ")
          + worst.brief
          + (worst.until === null
              ? ""
              : ": " + worst.awaited + " " + clock(worst.until - performance.now()))
          + " · Keys";
    const text = live ? brief : "⚪ not live · Keys";
    if (document.title !== text) {
        document.title = text;
    }
}
