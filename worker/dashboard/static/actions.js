// Resets, disables, enables and checks keys, and keeps notes on them.

import { openDialog, showMessage } from "./dialog.js";
import { page } from "./elements.js";
import { whileBusy } from "./focus.js";
import { latest, refreshNow } from "./live.js";
import { post } from "./server.js";
import { blockWords, count, duration, grouped, limitWords, plural, title } from "./words.js";

export async function change(url, body, done) {
    try {
        showMessage(done(await post(url, body)), "success");
    } catch (error) {
        showMessage(error.message, "danger");
    }
    await refreshNow();
}

// Returns what a reset would change, by the latest status: one line for each block, the keys that
// people disabled, and the ids of these keys.
function changesOf(body) {
    const lines = new Set();
    const byHand = [];
    const ids = new Set();
    Object.entries(latest.services).forEach(function (pair) {
        const service = pair[0];
        pair[1].keys.forEach(function (key) {
            if ((body.service && body.service !== service) || (body.key && body.key !== key.id)) {
                return;
            }
            grouped(key.blocks).forEach(function (block) {
                if (block.scope === "host" && block.disabled_by) {
                    // a pause, which no reset ends
                    return;
                }
                const shared = block.scope === "host" || block.scope === "model";
                const left =
                    block.left_ms === null ? "disabled" : "rests for " + duration(block.left_ms);
                const mates =
                    body.key && block.scope.startsWith("account")
                        ? pair[1].keys
                              .filter(function (other) {
                                  return other.account === key.account && other.id !== key.id;
                              })
                              .map(function (other) {
                                  return other.label;
                              })
                        : []; // the other keys of the account, which come back with this one
                const line =
                    (shared ? title(service) : [key.label].concat(mates).join(", "))
                    + ": "
                    + left
                    + " · "
                    + blockWords(block);
                if (block.disabled_by) {
                    ids.add(key.id);
                }
                if (block.disabled_by && !body.key) {
                    byHand.push(
                        key.label + " (" + block.reason + ", by " + block.disabled_by + ")"
                    );
                } else {
                    lines.add(line);
                }
            });
        });
    });
    return { lines: Array.from(lines), byHand: byHand, ids: Array.from(ids) };
}

export function askReset(what, body) {
    const changes = changesOf(body);
    const kept = changes.byHand.length;
    openDialog(
        "Reset " + what + "?",
        changes.lines.length
            ? "The following is back at once, and waiting jobs start. A key that the provider still"
                  + " refuses is disabled again:"
            : (kept
                  ? "Nothing rests, and only people have disabled keys"
                  : "Nothing rests or is disabled")
                  + ": a reset only makes waiting jobs look for a key again.",
        "Reset",
        {
            lines: changes.lines,
            also: kept
                ? "Also enable the keys that people disabled: " + changes.byHand.join("; ")
                : "",
            act: function (input) {
                // Only the keys that the dialog names: somebody may have disabled others since.
                const enabled = body.key || input.also ? changes.ids : [];
                change(
                    page.dataset.resetUrl,
                    Object.assign({ include_disabled: enabled }, body),
                    function (answer) {
                        return "Reset " + what + ": " + resetWords(answer);
                    }
                );
            },
        }
    );
}

// Returns the labels of the keys that a block concerns; if there is none, the name of the block.
function labelsOf(service, block) {
    const keys = latest.services[service].keys.filter(function (key) {
        return block.key ? key.id === block.key : block.scope.startsWith("account")
            && (block.name === key.account || block.name.startsWith(key.account + " × "));
    });
    return keys.length ? keys.map(function (key) { return key.label; }) : [block.name];
}

function resetWords(answer) {
    const names = function (byService) {
        return Array.from(new Set(Object.entries(byService).flatMap(function (pair) {
            return pair[1].flatMap(function (block) { return labelsOf(pair[0], block); });
        })));
    };
    const back = names(answer.brought_back);
    const left = names(answer.left_disabled);
    const few = function (all) {
        return (
            all.slice(0, 5).join(", ")
            + (all.length > 5 ? " and " + count(all.length - 5) + " more" : "")
        );
    };
    return (
        (back.length
            ? few(back) + (back.length === 1 ? " is back." : " are back.")
            : "nothing rested.")
        + (left.length ? " Still disabled by people: " + few(left) + "." : "")
    );
}

// Returns the outcome of a request to disable a key or to pause a service.
function outcomeOf(name, state, answer) {
    const before = answer.before;
    const who = before && " by " + before.by + " (" + before.reason + ").";
    if (before && before.left_ms === null) {
        return name + " was already " + state + " without an end," + who;
    }
    return (
        name + " is " + state
        + (answer.left_ms === null ? "." : " for " + duration(answer.left_ms) + ".")
        + (before
            ? " Before, it was " + state + " for another " + duration(before.left_ms) + "," + who
            : "")
        + (before || answer.newly ? "" : " The provider had already refused it.")
    );
}

export function askDisable(service, key) {
    openDialog(
        "Disable " + key.label + "?",
        "While this key of "
            + title(service)
            + " is disabled, no worker uses it, and a reset of all"
            + " keys skips it. Calls in flight end as usual.",
        "Disable",
        {
            danger: true,
            text: "Reason, for the audit trail",
            value: "by hand",
            time: true,
            act: function (input) {
                const body = { service: service, key: key.id, reason: input.text || "by hand" };
                change(
                    page.dataset.disableUrl,
                    input.for_s ? Object.assign({ for_s: input.for_s }, body) : body,
                    function (answer) {
                        return outcomeOf(key.label, "disabled", answer);
                    }
                );
            },
        }
    );
}

export function askPause(service) {
    openDialog(
        "Pause " + title(service) + "?",
        "While "
            + title(service)
            + " is paused, no call to it begins, with any key,"
            + " and its jobs wait in their queue. Calls in flight end as usual.",
        "Pause",
        {
            danger: true,
            text: "Reason, for the audit trail",
            value: "by hand",
            time: true,
            act: function (input) {
                const body = { service: service, reason: input.text || "by hand" };
                change(
                    page.dataset.pauseUrl,
                    input.for_s ? Object.assign({ for_s: input.for_s }, body) : body,
                    function (answer) {
                        return outcomeOf(title(service), "paused", answer);
                    }
                );
            },
        }
    );
}

export function resume(service) {
    change(page.dataset.resumeUrl, { service: service }, function (answer) {
        return title(service) + (answer.newly ? " is resumed." : " was not paused.");
    });
}

export function enable(service, key) {
    change(page.dataset.enableUrl, { service: service, key: key.id }, function (answer) {
        return key.label + (answer.newly ? " is enabled." : " was not disabled by a person.");
    });
}

export function askNote(service, key) {
    openDialog(
        "Note on " + key.label,
        "Everyone who may see the keys can read the note. Do not write a secret into it.",
        "Save",
        {
            text: "Note",
            value: key.note,
            act: function (input) {
                change(
                    page.dataset.noteUrl,
                    { service: service, key: key.id, note: input.text },
                    function (answer) {
                        return answer.note
                            ? "The note on " + key.label + " is saved."
                            : key.label + " has no note.";
                    }
                );
            },
        }
    );
}

// Asks the workers to load their keys again, and shows the answer of each worker.
export function reloadKeys(button) {
    whileBusy(button, "Reloading…", async function () {
        try {
            const workers = Object.entries((await post(page.dataset.reloadUrl, {})).workers);
            openDialog(
                "Reload of the keys",
                workers.length
                    ? plural(workers.length, "worker") + " answered:"
                    : "No worker answered. Is one running?",
                "Close",
                {
                    lines: workers.map(function (pair) {
                        return pair[0] + ": " + pair[1];
                    }),
                }
            );
        } catch (error) {
            showMessage(error.message, "danger");
        }
    });
}

// Asks the providers about keys, and shows the answers in a dialog. which: the service and the key;
// null for all keys.
export function checkKeys(button, which) {
    whileBusy(button, "Checking…", async function () {
        try {
            const answer = await post(page.dataset.checkUrl, which || {});
            openDialog(
                which ? "Check of " + answer.keys[0].key : "Check of the keys",
                answer.problems.length
                    ? answer.problems.join(". ") + "."
                    : which
                      ? "The provider accepts this key."
                      : "The providers accept every key that is configured here.",
                "Close",
                { lines: answer.keys.map(checkLine) }
            );
        } catch (error) {
            showMessage(error.message, "danger");
        }
    });
}

function checkLine(check) {
    const models = Object.entries(check.models).map(function (pair) {
        return pair[0] + (pair[1] ? "" : " is not available");
    });
    const limits = Object.entries(check.limits).map(function (pair) {
        return limitWords(pair[0], pair[1]);
    });
    return check.key + ": " + [check.state].concat(models, limits, check.detail || []).join(" · ");
}
