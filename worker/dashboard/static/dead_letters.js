// Lists dead letters page by page, searches and filters them, and replays and drops a selection.

import { change } from "./actions.js";
import { readAddress, writeAddress } from "./address.js";
import { openDialog } from "./dialog.js";
import { button, make, narrow, page, readOnly, setText, taskLink } from "./elements.js";
import { setDisabled, setHidden, showEntries, showSome } from "./focus.js";
import { refreshNow } from "./live.js";
import { clockTime, count, plural } from "./words.js";

const pageLength = narrow.matches ? 5 : 20;
const typing_ms = 300; // a pause after which the text to search for is complete

const kindWords = {
    failed: "The provider rejected it, or it raised an error.",
    expired: "Its deadline had passed.",
    unknown: "It is an email that may have been sent.",
    timeout: "It was stopped at its time limit.",
    poison: "Its message cannot be run, or workers died while they ran it.",
};

const older = document.getElementById("letters-older");
const newest = document.getElementById("letters-newest");
const kind = document.getElementById("letters-kind");
const service = document.getElementById("letters-service");
const search = document.getElementById("letters-search");
const rows = document.getElementById("letters-rows");
const all = document.getElementById("letters-all");
const selected = new Map(); // when a job ended, by its id
readAddress("search", search);
readAddress("service", service);
readAddress("kind", kind);
let listed = []; // the dead letters on the page
let before = null; // the cursor of the page shown; null: the newest page
let next = null;
let before_ms = 0; // every dead letter in the count ended before this instant
let total = null; // how many match; null: not known
let shown = null; // the query of what is listed

function filters() {
    const chosen = { kind: kind.value, service: service.value, search: search.value.trim() };
    return Object.fromEntries(Object.entries(chosen).filter(function (pair) { return pair[1]; }));
}

export function lettersQuery() {
    const query = new URLSearchParams(
        Object.assign({ limit: pageLength }, filters(), before ? { before: before } : {})
    );
    return "?" + query;
}

// Returns how many dead letters match; null during a search, because the number is not known.
function matching(answer) {
    if (search.value.trim()) {
        return null;
    }
    return Object.entries(answer.by_service).reduce(function (sum, pair) {
        return sum + Object.entries(pair[1]).reduce(function (inner, kinds) {
            const fits =
                (!kind.value || kinds[0] === kind.value)
                && (!service.value || pair[0] === service.value);
            return inner + (fits ? kinds[1] : 0);
        }, 0);
    }, 0);
}

// url: the address that gave the answer
export function showLetters(answer, url) {
    if (!url.endsWith(lettersQuery())) {
        return; // the person has chosen another list since
    }
    shown = lettersQuery();
    listed = answer.dead_letters;
    next = answer.next_before;
    total = matching(answer);
    showSome([[older, next !== null], [newest, before !== null]]);
    if (before === null) {
        before_ms = listed.length ? listed[0].at_ms + 1 : 0;
    }
    setText(document.getElementById("letters-count"), countWords(answer));
    const ends = new Map(listed.map(function (letter) { return [letter.id, letter.at_ms]; }));
    selected.forEach(function (at_ms, id) {
        if (ends.get(id) !== at_ms) {
            selected.delete(id); // only dead letters that the person sees may be changed
        }
    });
    showEntries(rows, listed, makeLetter);
    setHidden(document.getElementById("letters-table"), !listed.length);
    showSelection();
}

function countWords(answer) {
    if (!answer.total) {
        return "No job ended without success.";
    }
    const ended = plural(answer.total, "job") + " ended for good without success";
    if (!Object.keys(filters()).length && listed.length === answer.total) {
        return ended + ".";
    }
    if (!listed.length) {
        return ended + "; none matches.";
    }
    return (
        ended
        + (total === null
            ? "; "
              + count(listed.length)
              + (next === null && before === null ? " match." : " of the matches are listed.")
            : "; "
              + count(listed.length)
              + " of "
              + count(total)
              + (Object.keys(filters()).length ? " that match" : "")
              + " are listed.")
    );
}

function showSelection() {
    rows.querySelectorAll("input").forEach(function (box) {
        box.checked = selected.has(box.value);
    });
    if (!all) {
        return;
    }
    all.checked = listed.length > 0 && selected.size === listed.length;
    all.indeterminate = selected.size > 0 && !all.checked;
    ["replay", "drop"].forEach(function (verb) {
        const found = document.getElementById("letters-" + verb);
        const name = verb.charAt(0).toUpperCase() + verb.slice(1);
        setDisabled(found, !listed.length || !isAsShown());
        setText(found, selected.size ? name + " " + count(selected.size) + " selected"
            : Object.keys(filters()).length ? name + " all that match" : name + " all");
    });
}

// Returns whether the list matches the search and the filters: a newer answer may not be here yet.
function isAsShown() {
    return shown === lettersQuery();
}

function select(letter, wanted) {
    if (wanted) {
        selected.set(letter.id, letter.at_ms);
    } else {
        selected.delete(letter.id);
    }
}

// Returns the body of a change that concerns one dead letter, but no newer one of the same job.
function only(letter) {
    return { id: letter.id, before: letter.at_ms + 1 };
}

// Returns the body of a change that concerns the selected dead letters, but no newer ones.
function onlySelected() {
    return {
        ids: Array.from(selected.keys()),
        before: Math.max(...selected.values()) + 1,
    };
}

function makeLetter(letter) {
    const row = make("tr");
    row.dataset.job = letter.id;
    if (!readOnly) {
        const box = make("input", "form-check-input");
        box.type = "checkbox";
        box.value = letter.id;
        box.setAttribute("aria-label", "Select job " + letter.id);
        box.addEventListener("change", function () {
            select(letter, box.checked);
            showSelection();
        });
        const cell = make("td", "letter-select");
        cell.append(box);
        row.append(cell);
    }
    const task = make("td", "letter-task", letter.task);
    const job = taskLink(letter.id);
    setText(job, letter.id);
    job.className = "letter-job";
    task.append(job);
    const tries = make(
        "td",
        "letter-calls",
        letter.calls ? plural(letter.calls, "call") : "no call"
    );
    letter.attempts.slice(-3).forEach(function (call) {
        tries.append(make("small", "letter-call", call.key + " " + call.code.replaceAll("_", " ")
            + (call.in_doubt ? " (may have been carried out)" : "")));
    });
    const kindCell = make("td", "letter-kind", letter.kind);
    kindCell.title = kindWords[letter.kind] || "";
    const reason = make("td", "letter-reason");
    const text = make("div", "letter-text", letter.reason);
    text.title = letter.reason;
    reason.append(text);
    row.append(make("td", "letter-when", clockTime(letter.at_ms)), task, kindCell, reason, tries);
    if (!readOnly) {
        const cell = make("td", "letter-actions");
        const buttons = make("div", "letter-buttons");
        const replay = button(
            "Replay",
            "Replay job " + letter.id,
            "btn-outline-primary",
            function () {
                askReplay(letter);
            }
        );
        replay.disabled = !letter.replayable;
        replay.title = letter.replayable
            ? ""
            : letter.note || "The arguments of this job are no longer kept.";
        const drop = button(
            "Drop",
            "Drop the dead letter of job " + letter.id,
            "btn-outline-danger",
            function () {
                askDrop("the dead letter of " + letter.id, only(letter));
            }
        );
        buttons.append(replay, drop);
        cell.append(buttons);
        row.append(cell);
    }
    return row;
}

function replayed(answer) {
    const refused = !answer.refused.length ? "" : " Not sent: " + plural(answer.refused.length,
        "job") + ". The first reason: " + answer.refused[0].reason;
    return (
        plural(answer.replayed.length, "job")
        + " sent again."
        + refused
        + (answer.more ? " There are more." : "")
    );
}

function askReplay(letter) {
    const text = letter.needs_force
        ? "This email may have been sent, and it is too late to find out. If you replay it, it may"
          + " arrive twice."
        : "The job runs again with the same id and arguments"
          + (letter.in_doubt && page.dataset.sendsOnce.split(" ").includes(letter.service)
              ? "; an email keeps its idempotency key."
              : ".");
    openDialog(
        "Replay " + letter.task + "?",
        text,
        letter.needs_force ? "Send it anyway" : "Replay",
        {
            danger: letter.needs_force,
            act: function () {
                change(
                    page.dataset.replayUrl,
                    Object.assign(letter.needs_force ? { force: true } : {}, only(letter)),
                    replayed
                );
            },
        }
    );
}

function askReplayOf(what, body) {
    openDialog(
        "Replay " + what + "?",
        "The jobs run again with the same ids and arguments, at most 1,000 at once."
            + " Emails that might arrive twice are left out.",
        "Replay",
        {
            act: function () {
                change(page.dataset.replayUrl, body, replayed);
            },
        }
    );
}

function askDrop(what, body) {
    openDialog(
        "Drop " + what + "?",
        "The reason and the arguments are deleted for good"
            + (body.id || body.ids ? "." : ", at most 1,000 at once. Newer dead letters stay."),
        "Drop",
        {
            danger: true,
            act: function () {
                change(page.dataset.dropUrl, body, function (answer) {
                    return (
                        plural(answer.dropped, "dead letter")
                        + " dropped."
                        + (answer.more ? " There are more." : "")
                    );
                });
            },
        }
    );
}

// Makes a button change the selected dead letters. Without a selection, it changes all that match,
// but none that is newer than the list's first page.
function bulk(id, act) {
    const found = document.getElementById(id);
    if (found) {
        found.addEventListener("click", function () {
            const noun = (kind.value ? kind.value + " " : "") + "dead letter";
            if (selected.size) {
                act(plural(selected.size, "dead letter"), onlySelected());
            } else if (isAsShown()) {
                act(
                    total === null
                        ? "all dead letters that match"
                        : before === null
                          ? plural(total, noun)
                          : "all " + noun + "s up to " + clockTime(before_ms),
                    Object.assign({ before: before_ms }, filters())
                );
            }
        });
    }
}

bulk("letters-replay", askReplayOf);
bulk("letters-drop", askDrop);

function showPage(cursor) {
    before = cursor;
    selected.clear();
    writeAddress();
    showSelection();
    refreshNow();
}

older.addEventListener("click", function () { showPage(next); });
newest.addEventListener("click", function () { showPage(null); });
[kind, service].forEach(function (select) {
    select.addEventListener("change", function () { showPage(null); });
});
let typing = null;
search.addEventListener("input", function () {
    clearTimeout(typing);
    showSelection();
    typing = setTimeout(function () { showPage(null); }, typing_ms);
});
if (all) {
    all.addEventListener("change", function () {
        listed.forEach(function (letter) { select(letter, all.checked); });
        showSelection();
    });
}
