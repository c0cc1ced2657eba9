// What is wrong, above everything else and in the tab's title.

import { make, page, setText } from "./elements.js";
import { showEntries } from "./focus.js";
import { clock, count, duration, firstBack, pauseOf, plural, title, words } from "./words.js";

const idle_s = 30; // as long without a call although keys have room
// A job that waits for longer is worth a look; so says the alert KeywheelQueueOld.
const old_s = 300;
const list = document.getElementById("keys-wrong");
const well = document.getElementById("keys-well");
const plainTitle = document.title;
const rank = { bad: 0, middle: 1 };
let shown = []; // the problems on the page, the worst first

// level: bad (nothing runs) or middle; text: a sentence; brief: for the tab's title; until: when
// what is awaited comes, by performance.now(), and awaited: what that is
function problem(level, service, text, brief, more) {
    return Object.assign(
        { level: level, service: service, text: text, brief: brief, until: null, awaited: "" },
        more
    );
}

function nobodyServes(service, pool) {
    const back = firstBack(pool.keys);
    const name = title(service);
    const pause = pauseOf(pool.keys);
    const jobs = pool.queue.known && pool.queue.waiting ? " " + plural(pool.queue.waiting, "job")
        + (pool.queue.waiting === 1 ? " waits." : " wait.") : "";
    if (pause) {
        return problem(
            "middle",
            service,
            name + " is paused by " + pause.disabled_by + ": " + pause.reason + "." + jobs,
            name + " paused",
            pause.left_ms === null
                ? {}
                : { until: performance.now() + pause.left_ms, awaited: "goes on in" }
        );
    }
    if (back === null) {
        return problem(
            "bad",
            service,
            "No key of " + name + " serves until a person resets one." + jobs,
            name + ": no key"
        );
    }
    return problem("bad", service, "No key of " + name + " serves." + jobs, name,
        { until: performance.now() + back, awaited: "next key in" });
}

// Keys that the provider refused. What a person disabled is wanted.
function refused(service, pool) {
    const keys = pool.keys.filter(function (key) {
        return (
            key.state === "disabled"
            && !key.blocks.some(function (one) {
                return one.disabled_by;
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

function ofService(service, pool) {
    const queue = pool.queue;
    const name = title(service);
    const found =
        pool.summary.keys && !pool.summary.ready
            ? [nobodyServes(service, pool)]
            : refused(service, pool);
    if (queue.known && queue.waiting && !queue.workers) {
        found.push(problem("bad", service, plural(queue.waiting, "job") + " for " + name
            + " cannot start: no worker answers.", "no worker"));
    }
    if (queue.idle_s >= idle_s) {
        found.push(
            problem(
                "bad",
                service,
                "Jobs for "
                    + name
                    + " wait and keys have room, but no call has been made for "
                    + duration(queue.idle_s * 1000)
                    + ". Look at the workers' log.",
                name + ": no calls"
            )
        );
    }
    if (queue.oldest_s > old_s && pool.summary.ready) {
        found.push(
            problem(
                "middle",
                service,
                "A job for " + name + " has waited for " + duration(queue.oldest_s * 1000) + ".",
                name + ": jobs wait"
            )
        );
    }
    return found;
}

function problemsOf(status) {
    const pairs = Object.entries(status.services);
    const found = pairs.flatMap(function (pair) { return ofService(pair[0], pair[1]); });
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
    return found.sort(function (one, other) { return rank[one.level] - rank[other.level]; });
}

function makeItem(one) {
    const item = make("li", "keys-wrong-" + one.level);
    item.append(make("span", "", one.text + " "));
    if (one.timed) {
        // It changes each second, which nobody wants read aloud.
        const timer = make("strong", "keys-wrong-timer");
        timer.setAttribute("role", "timer");
        item.append(timer, " ");
    }
    if (one.service) {
        const link = make("a", "", "Show " + title(one.service));
        link.href = "#service-" + one.service;
        item.append(link);
    }
    return item;
}

export function showBanner(status) {
    shown = problemsOf(status);
    const entries = shown.map(function (one) {
        return {
            level: one.level,
            text: one.text,
            service: one.service,
            timed: one.until !== null,
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
    setText(
        well,
        serving.length
            ? "All is well: " + serving.join(" and ") + " serve."
            : "No key is configured here."
    );
    page.dataset.level = shown.length ? shown[0].level : "well";
    tickBanner(true);
}

// live: whether what is shown is the state of now
export function tickBanner(live) {
    const timers = list.querySelectorAll(".keys-wrong-timer");
    shown.filter(function (one) { return one.until !== null; }).forEach(function (one, place) {
        setText(timers[place], one.awaited.charAt(0).toUpperCase() + one.awaited.slice(1) + " "
            + clock(one.until - performance.now()) + ".");
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
