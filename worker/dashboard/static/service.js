// Shows one service: its facts, its usage, its keys.

import { askPause, askReset, resume } from "./actions.js";
import { makeDeferred, showDeferred } from "./deferred.js";
import { button, make, narrow, readOnly, setText } from "./elements.js";
import { setChildren, showSome } from "./focus.js";
import { countDown, makeCard, showCard, unfold } from "./key_card.js";
import { makeUsage } from "./usage.js";
import { count, duration, firstBack, pauseOf, plural, title } from "./words.js";

const mostUnfolded = 3; // with more keys, a phone folds the ready ones
const inUse_ms = 10000; // after a key press or a click, no card moves for this long
const shown = new Map(); // service name → its elements
let usedAt = -Infinity; // the latest key press or click, by performance.now()

// The facts about each service, and their meaning.
const factWords = {
    "Keys ready": "Keys that may be called now.",
    "Calls in flight": "Calls that the provider has not answered yet.",
    "Jobs waiting":
        "Jobs in the queue, and jobs in a worker that wait for a key. Deferred jobs wait until a"
        + " key is back.",
    "Queue paused":
        "A worker takes no more jobs of a queue than its keys can serve soon; the others stay in"
        + " the queue, in order.",
    "Queue empty in": "How long the waiting jobs take at the speed of the last minute.",
    "Longest wait": "How long the oldest of the waiting jobs has waited.",
    "Calls so far":
        "All calls since the pool's state was created. Refused: a limit was reached (429).",
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

function setFact(fact, text, note, level) {
    setText(fact.value, text);
    setText(fact.note, note || "");
    fact.note.hidden = !note; // a screen reader would stop at an empty note
    fact.value.dataset.level = level || "";
}

function makeButtons(service) {
    const name = title(service);
    const tools = make("div", "keys-tools");
    const pause = button("Pause " + name, "Pause " + name, "btn-outline-secondary", function () {
        askPause(service);
    });
    const goOn = button("Resume " + name, "Resume " + name, "btn-primary", function () {
        resume(service);
    });
    tools.append(goOn, pause, button("Reset all keys of " + name, "Reset all keys of " + name,
        "btn-outline-primary reset-service", function () {
            askReset("all keys of " + name, { service: service });
        }));
    return { tools: tools, pause: pause, resume: goOn };
}

function makeService(service) {
    const section = make("section", "keys-service");
    section.id = "service-" + service;
    const heading = make("h2", "", title(service));
    heading.id = "title-" + service;
    section.setAttribute("aria-labelledby", heading.id);
    const head = make("div", "keys-service-head");
    head.append(heading);
    const buttons = makeButtons(service);
    if (!readOnly) {
        head.append(buttons.tools);
    }
    const factList = make("dl", "keys-facts");
    const facts = {};
    Object.keys(factWords).forEach(function (name) { facts[name] = makeFact(factList, name); });
    const deferred = makeDeferred(title(service));
    const grid = make("div", "keys-grid");
    const folded = make("details", "keys-folded");
    const foldedWords = make("summary");
    const foldedGrid = make("div", "keys-grid");
    folded.append(foldedWords, foldedGrid);
    const empty = make("p", "keys-note", "No key of " + title(service) + " is configured here: set "
        + service.toUpperCase() + "_API_KEY.");
    section.append(head, factList, deferred.details, makeUsage(service), empty, grid, folded);
    document.getElementById("keys-services").append(section);
    return {
        section: section,
        buttons: buttons,
        facts: facts,
        deferred: deferred,
        grid: grid,
        folded: folded,
        foldedWords: foldedWords,
        foldedGrid: foldedGrid,
        empty: empty,
        cards: new Map(),
        order: "",
    };
}

export function showService(service, pool) {
    if (!shown.has(service)) {
        shown.set(service, makeService(service));
    }
    const view = shown.get(service);
    const queue = pool.queue;
    const ready = pool.summary.ready;
    const total = pool.summary.keys;
    const back = total && !ready ? firstBack(pool.keys) : null;
    const pause = pauseOf(pool.keys);
    const backWords = back !== null ? "first back in " + duration(back)
        : pause ? "until " + title(service) + " is resumed"
        : "until a person enables or resets one";
    showSome([[view.buttons.pause, !pause], [view.buttons.resume, Boolean(pause)]]);
    setFact(
        view.facts["Keys ready"],
        (ready || "none") + " of " + total,
        total && !ready ? backWords : "",
        total && !ready ? "bad" : ready < total ? "middle" : ""
    );
    setFact(view.facts["Calls in flight"], count(pool.summary.in_flight));
    setFact(
        view.facts["Jobs waiting"],
        queue.known ? count(queue.waiting) : "not known",
        queue.known
            ? queue.deferred
                ? count(queue.deferred) + " deferred"
                : ""
            : "the broker does not answer",
        queue.known ? "" : "middle"
    );
    setFact(
        view.facts["Queue paused"],
        pause
            ? "yes"
            : { none: "no", all: "yes", some: "partly", unknown: "not known" }[queue.paused],
        pause
            ? "by " + pause.disabled_by
            : {
                  none: "",
                  all: "by every worker",
                  some:
                      "by "
                      + count(queue.paused_workers)
                      + " of "
                      + plural(queue.workers, "worker"),
                  unknown: "no worker answers",
              }[queue.paused],
        pause || queue.paused === "unknown" ? "middle" : ""
    );
    if (!queue.known) {
        setFact(view.facts["Queue empty in"], "not known");
    } else if (!queue.waiting) {
        setFact(view.facts["Queue empty in"], "empty now");
    } else if (back !== null) {
        setFact(view.facts["Queue empty in"], "over " + duration(back), "no key is ready before");
    } else if (queue.drain_s !== null) {
        setFact(view.facts["Queue empty in"], "about " + duration(queue.drain_s * 1000));
    } else if (queue.deferred === queue.waiting && lastBack(pool) > 0) {
        setFact(
            view.facts["Queue empty in"],
            "over " + duration(lastBack(pool)),
            "all jobs are deferred, the last one until then"
        );
    } else {
        setFact(
            view.facts["Queue empty in"],
            "not known",
            total && !ready ? "no key is ready " + backWords : "no job ended in the last minute",
            "middle"
        );
    }
    showLongestWait(view.facts["Longest wait"], queue);
    setFact(view.facts["Calls so far"], count(pool.summary.calls),
        pool.summary.refused ? count(pool.summary.refused) + " refused" : "");
    showDeferred(view.deferred, queue, pool.now_ms);
    view.empty.hidden = pool.keys.length > 0;
    showCards(view, service, pool.keys);
}

// Returns the milliseconds until the last deferred job comes back. The status lists this job, if
// the broker shows deferred jobs at all.
function lastBack(pool) {
    const ends = pool.queue.deferred_jobs.map(function (job) {
        return job.next_try_ms - pool.now_ms;
    });
    return Math.max.apply(null, ends.concat(0));
}

function showLongestWait(fact, queue) {
    const bulk = queue.oldest_bulk_s > 0 ? "bulk jobs " + duration(queue.oldest_bulk_s * 1000) : "";
    if (!queue.waiting) {
        setFact(fact, queue.known ? "nothing waits" : "not known", bulk);
    } else if (queue.oldest_s > 0) {
        setFact(fact, duration(queue.oldest_s * 1000), bulk || "at least");
    } else {
        setFact(fact, bulk ? "–" : "not known yet", bulk);
    }
}

export function countDownAll() {
    shown.forEach(function (view) { view.cards.forEach(countDown); });
}

// Returns whether a person may be about to press a button in a grid of cards.
function isInUse(grid) {
    return grid.contains(document.activeElement) && performance.now() - usedAt < inUse_ms;
}

function showCards(view, service, keys) {
    const ids = new Set(keys.map(function (key) { return key.id; }));
    view.cards.forEach(function (card, id) {
        if (!ids.has(id)) {
            card.article.remove();
            view.cards.delete(id);
        }
    });
    keys.forEach(function (key) {
        if (!view.cards.has(key.id)) {
            view.cards.set(key.id, makeCard(service, key));
        }
        showCard(view.cards.get(key.id), key);
    });
    const rank = { disabled: 0, cooling: 1, ready: 2 };
    const folds = narrow.matches && keys.length > mostUnfolded;
    const sorted = keys.slice().sort(function (first, second) {
        return rank[first.state] - rank[second.state];
    });
    const order = sorted.map(function (key) { return key.id + (folds && key.state); }).join();
    // Keys with problems come first. No card moves while a person may be about to press its button.
    if (view.order !== order && ![view.grid, view.foldedGrid].some(isInUse)) {
        view.order = order;
        [false, true].forEach(function (isFolded) {
            const keysOf = sorted.filter(function (key) {
                return (folds && key.state === "ready") === isFolded;
            });
            setChildren(isFolded ? view.foldedGrid : view.grid, keysOf.map(function (key) {
                return view.cards.get(key.id).article;
            }));
        });
    }
    view.folded.hidden = !view.foldedGrid.childElementCount;
    setText(view.foldedWords, plural(view.foldedGrid.childElementCount, "key") + " ready");
}

["keydown", "pointerdown"].forEach(function (name) {
    document.addEventListener(name, function () { usedAt = performance.now(); });
});
narrow.addEventListener("change", function () {
    shown.forEach(function (view) { view.cards.forEach(unfold); });
});
