// One service: its facts, its last hour, its keys.

import { askReset } from "./actions.js";
import { makeDeferred, showDeferred } from "./deferred.js";
import { button, make, narrow, readOnly, setText } from "./elements.js";
import { countDown, makeCard, showCard, unfold } from "./key_card.js";
import { drawPlot, makePlot } from "./plot.js";
import { count, duration, plural, title } from "./words.js";

const shown = new Map(); // service name → its elements

// The facts about each service, and their meaning.
const factWords = {
    "Keys ready": "Keys that may be called now.",
    "Calls in progress": "Calls that the provider has not answered yet.",
    "Jobs waiting": "Jobs in the queue, and jobs in a worker that wait for a key. Deferred jobs wait until a key"
        + " is back.",
    "Queue paused": "A worker takes no more jobs of a queue than its keys can serve soon; the others stay in the"
        + " queue, in order.",
    "Queue empty in": "How long the waiting jobs take at the speed of the last minute.",
    "Longest wait": "How long the oldest of the waiting jobs has waited.",
    "Calls so far": "All calls since the pool's state was created. Refused: a limit was reached (429).",
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
    const deferred = makeDeferred(title(service));
    const grid = make("div", "keys-grid");
    const empty = make("p", "keys-note", "No key of " + title(service) + " is configured here: set "
        + service.toUpperCase() + "_API_KEY.");
    section.append(head, idle, factList, deferred.details, plot.figure, empty, grid);
    document.getElementById("keys-services").append(section);
    return { section: section, idle: idle, facts: facts, deferred: deferred, plot: plot, grid: grid, empty: empty,
        cards: new Map(), order: "" };
}

// The milliseconds until the first key is back, if none is ready; null if none comes back by itself.
function firstBack(keys) {
    const rests = keys.filter(function (key) { return key.left_ms !== null; });
    return rests.length ? Math.min.apply(null, rests.map(function (key) { return key.left_ms; })) : null;
}

export function showService(service, pool) {
    if (!shown.has(service)) {
        shown.set(service, makeService(service));
    }
    const its = shown.get(service);
    const queue = pool.queue;
    const ready = pool.summary.ready;
    const total = pool.summary.keys;
    const back = total && !ready ? firstBack(pool.keys) : null;
    const backWords = back === null ? "until a person resets one" : "first back in " + duration(back);
    setFact(its.facts["Keys ready"], (ready || "none") + " of " + total, total && !ready ? backWords : "",
        total && !ready ? "bad" : ready < total ? "middle" : "");
    setFact(its.facts["Calls in progress"], count(pool.summary.in_flight));
    setFact(its.facts["Jobs waiting"], queue.known ? count(queue.waiting) : "not known",
        queue.known ? (queue.deferred ? count(queue.deferred) + " deferred" : "") : "the broker does not answer",
        queue.known ? "" : "middle");
    setFact(its.facts["Queue paused"], { none: "no", all: "yes", some: "partly", unknown: "not known" }[queue.paused],
        { none: "", all: "by every worker", some: "by " + count(queue.paused_workers) + " of "
            + plural(queue.workers, "worker"), unknown: "no worker answers" }[queue.paused],
        queue.paused === "unknown" ? "middle" : "");
    if (!queue.known) {
        setFact(its.facts["Queue empty in"], "not known");
    } else if (!queue.waiting) {
        setFact(its.facts["Queue empty in"], "empty now");
    } else if (back !== null) {
        setFact(its.facts["Queue empty in"], "over " + duration(back), "no key is ready before");
    } else if (queue.drain_s !== null) {
        setFact(its.facts["Queue empty in"], "about " + duration(queue.drain_s * 1000));
    } else {
        setFact(its.facts["Queue empty in"], "not known", total && !ready ? "no key is ready " + backWords
            : "no job ended in the last minute", "middle");
    }
    showLongestWait(its.facts["Longest wait"], queue);
    setFact(its.facts["Calls so far"], count(pool.summary.calls),
        pool.summary.refused ? count(pool.summary.refused) + " refused" : "");
    its.idle.hidden = queue.idle_s < 30;
    setText(its.idle, "Jobs wait and keys have room, but no call has been made for " + duration(queue.idle_s * 1000)
        + ". Look at the workers' log.");
    showDeferred(its.deferred, queue, pool.now_ms);
    drawPlot(its.plot, pool.history, pool.now_ms);
    its.empty.hidden = pool.keys.length > 0;
    showCards(its, service, pool.keys);
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
    shown.forEach(function (its) { its.cards.forEach(countDown); });
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
    // Keys in trouble come first; no card moves while a person may be about to press its button.
    if (its.order !== order && !its.grid.contains(document.activeElement)) {
        its.order = order;
        sorted.forEach(function (key) { its.grid.append(its.cards.get(key.id).article); });
    }
}

narrow.addEventListener("change", function () {
    shown.forEach(function (its) { its.cards.forEach(unfold); });
});
