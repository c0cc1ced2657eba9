// Polls the status every second, and says whether what the page shows is live.

import { page, setText } from "./elements.js";
import { request } from "./server.js";
import { clockTime } from "./words.js";

const interval_ms = 1000;
const slow_interval_ms = 3000; // dead letters and audit trail
const stale_ms = 3000; // older answers are not live
const trouble = document.getElementById("keys-trouble");
const freshness = document.getElementById("keys-freshness");
export let latest = null; // the latest status
let answeredAt = null;
let slowAt = -Infinity;
let polling = null;
let timer = null;
let views = null; // see start()
let ended = false; // the login has expired: another request would make the browser ask for a password

// views: slow (returns the addresses that are polled less often), show (shows the status), showSlow (shows the
// answers of these addresses), showNothing (called while no answer has come yet)
export function start(theViews) {
    views = theViews;
    document.addEventListener("visibilitychange", function () {
        if (document.visibilityState === "visible") {
            poll();
        }
    });
    poll();
}

async function poll() {
    clearTimeout(timer);
    if (polling || ended) {
        return polling;
    }
    polling = (async function () {
        try {
            const slow = performance.now() - slowAt >= slow_interval_ms;
            const requests = [request(page.dataset.statusUrl)];
            if (slow) {
                requests.push.apply(requests, views.slow().map(function (url) { return request(url); }));
            }
            const answers = await Promise.all(requests);
            latest = answers[0];
            answeredAt = Date.now();
            views.show(latest);
            if (slow) {
                slowAt = performance.now();
                views.showSlow.apply(null, answers.slice(1));
            }
            trouble.hidden = true;
        } catch (error) {
            showTrouble(error);
        }
        showFreshness();
    }());
    await polling;
    polling = null;
    clearTimeout(timer);
    if (document.visibilityState === "visible" && !ended) {
        timer = setTimeout(poll, interval_ms);
    }
}

export async function pollNow() {
    if (polling) {
        await polling; // this poll may have started before the change
    }
    slowAt = -Infinity;
    await poll();
}

function showTrouble(error) {
    ended = error.status === 401;
    setText(trouble, ended ? "Your login has expired. Reload this page to log in again."
        : error.message + (latest ? " The page may be out of date; trying again." : " Trying again."));
    trouble.hidden = false;
    if (!latest) {
        views.showNothing();
    }
}

// Returns whether what the page shows is live, as far as that is known.
export function showFreshness() {
    const live = answeredAt === null || !ended && Date.now() - answeredAt <= stale_ms;
    if (answeredAt === null) {
        setText(freshness, !trouble.hidden ? "Not live." : performance.now() < stale_ms ? "Loading…"
            : "Still loading: no answer yet.");
    } else if (!live) {
        setText(freshness, "Not live: this is the state at " + clockTime(answeredAt) + ".");
    } else {
        setText(freshness, "Live: updated every second.");
    }
    return live;
}
