// Resets, disables and checks keys.

import { ask, say } from "./dialog.js";
import { page, setText } from "./elements.js";
import { latest, lookAnew } from "./poller.js";
import { post } from "./server.js";
import { blockWords, count, duration, grouped, limitWords, title } from "./words.js";

export async function change(url, body, done) {
    try {
        say(done(await post(url, body)), "success");
    } catch (error) {
        say(error.message, "danger");
    }
    await lookAnew();
}

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
            grouped(key.blocks).forEach(function (one) {
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

export function askReset(what, body) {
    const held = heldBy(body);
    const kept = held.byHand.length;
    ask("Reset " + what + "?", held.lines.length
        ? "This comes back, and waiting jobs start at once. If the provider still refuses a key, it goes out again:"
        : "Nothing rests" + (kept ? ", and no key is out but by a person's hand" : " or is disabled")
            + ": a reset only makes waiting jobs look for a key again.", "Reset", {
        lines: held.lines,
        also: kept ? "Also enable what a person disabled: " + held.byHand.join("; ") : "",
        act: function (said) {
            change(page.dataset.resetUrl, said.also ? Object.assign({ include_disabled: true }, body) : body,
                function (told) { return "Reset " + what + ": " + resetWords(told); });
        },
    });
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

export function askDisable(service, key) {
    ask("Disable " + key.label + "?", "No worker uses this key of " + title(service)
        + " until somebody resets it; a reset of all keys leaves it out. Calls in progress end as they may.", "Disable", {
        danger: true,
        reason: true,
        act: function (said) {
            change(page.dataset.disableUrl, { service: service, key: key.id, reason: said.reason },
                function (told) { return key.label + (told.newly ? " is disabled." : " was disabled already."); });
        },
    });
}

// What the providers say of each key, in a dialog.
export async function checkKeys(button) {
    button.disabled = true;
    setText(button, "Checking…");
    try {
        const told = await post(page.dataset.checkUrl, {});
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
