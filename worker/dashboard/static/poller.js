// Asks every second how things are, and says whether what is shown is live.

import { page, setText } from "./elements.js";
import { talk } from "./server.js";
import { clockTime } from "./words.js";

const every_ms = 1000;
const slow_every_ms = 3000; // dead letters and audit trail
const stale_ms = 3000; // with no answer for so long, what is shown is not live
const trouble = document.getElementById("keys-trouble");
const freshness = document.getElementById("keys-freshness");
export let latest = null; // the latest status
let answeredAt = null;
let slowAt = -Infinity;
let asking = null;
let timer = null;
let views = null; // what is asked for less often, and what shows the answers
let ended = false; // the login is over: asking again would only make the browser ask for a password

// its: slow (gives the addresses that are asked every few seconds), show (the status), showSlow (their answers),
// showNothing (there never was an answer)
export function begin(its) {
    views = its;
    document.addEventListener("visibilitychange", function () {
        if (document.visibilityState === "visible") {
            look();
        }
    });
    look();
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
                asked.push.apply(asked, views.slow().map(function (url) { return talk(url); }));
            }
            const told = await Promise.all(asked);
            latest = told[0];
            answeredAt = Date.now();
            views.show(latest);
            if (slow) {
                slowAt = performance.now();
                views.showSlow.apply(null, told.slice(1));
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

export async function lookAnew() {
    if (asking) {
        await asking; // it may have begun before the change
    }
    slowAt = -Infinity;
    await look();
}

function showTrouble(error) {
    ended = error.status === 401;
    setText(trouble, ended ? "Your login has ended. Reload this page to log in again."
        : error.message + (latest ? " What you see may be old; trying again." : " Trying again."));
    trouble.hidden = false;
    if (!latest) {
        views.showNothing();
    }
}

export function showFreshness() {
    if (answeredAt === null) {
        setText(freshness, !trouble.hidden ? "Not live." : performance.now() < stale_ms ? "Loading…"
            : "Still loading: no answer yet.");
    } else if (ended || Date.now() - answeredAt > stale_ms) {
        setText(freshness, "Not live: this is how it was at " + clockTime(answeredAt) + ".");
    } else {
        setText(freshness, "Live: every second, without a reload.");
    }
}
