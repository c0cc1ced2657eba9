// Keeps the page live: the server pushes the status to one tab, which shares it with the others.
// Each tab requests the lists when they have changed.

import { page, setText } from "./elements.js";
import { opened, request } from "./server.js";
import { joinTabs, share, waitForOthers } from "./tabs.js";
import { clockTime } from "./words.js";

const again_ms = 1000;
const lists_ms = 3000; // under load the audit trail changes all the time
const silent_ms = 12000; // a stream without an event for longer is dead
const stale_ms = 3000; // older answers are not live
const trouble = document.getElementById("keys-trouble");
const freshness = document.getElementById("keys-freshness");
export let latest = null; // the latest status
let answeredAt = null; // by performance.now(), which does not follow changes of the clock
let stateOf_ms = null; // the instant of the status by the server's clock
let views = null; // see start()
// The login has expired: another request would make the browser ask for a password.
let ended = false;
let stream = null; // the stream that this tab reads
let hasStopped = false; // whether another tab reads the stream instead
let again = null;
let listsOf = null; // the mark of the lists that are shown
let isListed = false; // whether the lists on the page are those requested last
let listsAt = -Infinity;
let refreshing = null;

// views: lists (returns the addresses of the lists), show (shows the status), showLists (shows the
// answers, and gets the addresses), showNothing (called while no answer has come yet)
export function start(newViews) {
    views = newViews;
    document.addEventListener("visibilitychange", follow);
    joinTabs({
        isReading: function () { return stream !== null; },
        latest: function () { return latest; },
        stopReading: function () {
            if (stream) {
                hasStopped = true;
                stream.abort();
            }
        },
        receive: function (status) {
            if (!ended) {
                show(status);
                follow(); // checks again after the time in which the other tab should share more
            }
        },
        follow: follow,
    });
}

// Reads the stream unless another tab does; also in the background, because the tab's title shows
// problems.
function follow() {
    clearTimeout(again);
    const wait_ms = waitForOthers();
    if (wait_ms) {
        again = setTimeout(follow, wait_ms);
    } else if (!stream && !ended) {
        read();
    }
}

async function read() {
    const controller = new AbortController();
    hasStopped = false;
    let timer = null;
    const restartTimer = function () {
        clearTimeout(timer);
        timer = setTimeout(function () { controller.abort(); }, silent_ms);
    };
    stream = controller;
    restartTimer();
    try {
        const reader = (await opened(page.dataset.eventsUrl, { signal: controller.signal })).body
            .pipeThrough(new TextDecoderStream()).getReader();
        let text = "";
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
            const events = (text + part.value).split("\n\n");
            text = events.pop();
            restartTimer();
            if (events.length) {
                const status = JSON.parse(events.pop().replace(/^event: status\ndata: /, ""));
                share(status);
                try {
                    show(status);
                } catch (error) { // an error of the page, which the next status may not cause
                    reportError(error);
                }
            }
        }
    } catch (error) {
        if (!ended && !hasStopped) {
            showTrouble(error.name === "AbortError" ? new Error("Flower did not answer in time.")
                : error instanceof TypeError ? new Error("Flower cannot be reached.") : error);
        }
    }
    clearTimeout(timer);
    stream = null;
    clearTimeout(again);
    again = setTimeout(follow, again_ms);
}

function show(status) {
    latest = status;
    answeredAt = performance.now();
    stateOf_ms = Object.values(status.services)[0].now_ms;
    trouble.hidden = true;
    views.show(status);
    showFreshness();
    const is_due = !isListed || listsOf !== status.changes;
    if (is_due && performance.now() - listsAt >= lists_ms && !document.hidden) {
        refresh();
    }
}

function refresh() {
    listsAt = performance.now();
    isListed = false;
    const mark = latest && latest.changes;
    const urls = views.lists();
    refreshing = (async function () {
        try {
            const answers = await Promise.all(urls.map(function (url) { return request(url); }));
            views.showLists(answers, urls);
            listsOf = mark;
            isListed = String(urls) === String(views.lists()); // unless others were chosen since
            showFreshness();
        } catch (error) {
            showTrouble(error);
        }
    }());
    return refreshing;
}

// Requests the lists now, because something has changed or the person has chosen others.
export async function refreshNow() {
    await refreshing; // its answers may be from before the change
    await refresh();
}

function showTrouble(error) {
    if (error.status === 401) {
        ended = true;
        if (stream) {
            stream.abort();
        }
    }
    setText(
        trouble,
        ended
            ? "Your login has expired. Reload this page to log in again."
            : error.message
                  + (latest ? " The page may be out of date; trying again." : " Trying again.")
    );
    trouble.hidden = false;
    if (listsOf === null) {
        views.showNothing();
    }
    showFreshness();
}

export function hasEnded() {
    return ended;
}

// Shows whether the page is live, and returns it; without an answer yet, returns true.
export function showFreshness() {
    const live = answeredAt === null || !ended && performance.now() - answeredAt <= stale_ms;
    if (answeredAt === null || listsOf === null) {
        const loading =
            performance.now() < stale_ms ? "Loading…" : "Still loading: no answer yet.";
        setText(freshness, trouble.hidden ? loading : "Not live.");
    } else if (!live) {
        setText(freshness, "Not live: this is the state at " + clockTime(stateOf_ms) + ".");
    } else {
        setText(freshness, "Live: updated every second.");
    }
    return live;
}
