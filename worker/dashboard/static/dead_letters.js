// Dead letters.

import { change } from "./actions.js";
import { ask } from "./dialog.js";
import { button, make, narrow, page, readOnly, setText } from "./elements.js";
import { lookAnew } from "./poller.js";
import { clockTime, count, plural } from "./words.js";

const mostLetters = 500;

const kindWords = { failed: "Refused by the provider, or broken.", expired: "Its time was over.",
    unknown: "An email that may have been sent.", timeout: "Stopped at its time limit.",
    poison: "A message that cannot be run, or that workers died of." };

const lettersMore = document.getElementById("letters-more");
let lettersShown = narrow.matches ? 5 : 20;
let seenUntil_ms = 0; // every letter that was counted ended before this instant
const kind = document.getElementById("letters-kind");
const rows = document.getElementById("letters-rows");

export function lettersQuery() {
    return "?limit=" + lettersShown + (kind.value ? "&kind=" + kind.value : "");
}

function matching(told) {
    return Object.values(told.by_service).reduce(function (sum, kinds) {
        return sum + Object.entries(kinds).reduce(function (inner, pair) {
            return inner + (!kind.value || pair[0] === kind.value ? pair[1] : 0);
        }, 0);
    }, 0);
}

export function showLetters(told) {
    const count_ = matching(told);
    lettersMore.hidden = count_ <= told.dead_letters.length || lettersShown >= mostLetters;
    seenUntil_ms = told.dead_letters.length ? told.dead_letters[0].at_ms + 1 : 0;
    setText(document.getElementById("letters-count"), !told.total ? "No job ended without success."
        : plural(told.total, "job") + " ended for good without success and can be looked at"
        + (count_ > told.dead_letters.length ? "; the latest " + count(told.dead_letters.length) + " of " + count(count_)
            + " are shown." : "."));
    document.getElementById("letters-table").hidden = !told.dead_letters.length;
    ["letters-replay", "letters-drop"].forEach(function (id) {
        const found = document.getElementById(id);
        if (found) {
            found.disabled = !count_;
            found.dataset.count = count_;
        }
    });
    const are = JSON.stringify(told.dead_letters);
    if (rows.dataset.are !== are) {
        rows.dataset.are = are;
        rows.replaceChildren.apply(rows, told.dead_letters.map(makeLetter));
    }
}

function makeLetter(letter) {
    const row = make("tr");
    row.dataset.job = letter.id;
    const task = make("td", "", letter.task);
    task.append(make("small", "letter-job", letter.id));
    const tries = make("td", "", letter.calls ? plural(letter.calls, "call") : "no call");
    letter.attempts.slice(-3).forEach(function (call) {
        tries.append(make("small", "letter-call", call.key + " " + call.code.replaceAll("_", " ")
            + (call.in_doubt ? " (may have been carried out)" : "")));
    });
    const kindCell = make("td", "", letter.kind);
    kindCell.title = kindWords[letter.kind] || "";
    row.append(make("td", "", clockTime(letter.at_ms)), task, kindCell, make("td", "", letter.reason), tries);
    if (!readOnly) {
        const cell = make("td");
        const buttons = make("div", "letter-buttons");
        const replay = button("Replay", "Replay job " + letter.id, "btn-outline-primary", function () {
            askReplay(letter);
        });
        replay.disabled = !letter.replayable;
        replay.title = letter.replayable ? "" : letter.note || "Its arguments are no longer kept.";
        buttons.append(replay, button("Drop", "Drop the letter of job " + letter.id, "btn-outline-danger", function () {
            askDrop("the letter of " + letter.id, { id: letter.id });
        }));
        cell.append(buttons);
        row.append(cell);
    }
    return row;
}

function replayed(told) {
    const refused = told.refused.length ? " " + plural(told.refused.length, "job") + " not: "
        + told.refused[0].reason + (told.refused.length > 1 ? " And others." : "") : "";
    return plural(told.replayed.length, "job") + " sent again." + refused + (told.more ? " There are more." : "");
}

function askReplay(letter) {
    const text = letter.needs_force
        ? "Nobody knows whether this email was sent, and it may be too long ago to find out: it may arrive twice."
        : "The job runs again with the same id and arguments"
            + (letter.in_doubt && letter.service === "resend" ? "; an email keeps its idempotency key." : ".");
    ask("Replay " + letter.task + "?", text, letter.needs_force ? "Send all the same" : "Replay", {
        danger: letter.needs_force,
        act: function () {
            change(page.dataset.replayUrl, letter.needs_force ? { id: letter.id, force: true } : { id: letter.id },
                replayed);
        },
    });
}

function askDrop(what, body) {
    ask("Drop " + what + "?", "What failed, and its arguments, are gone for good"
        + (body.id ? "." : "; at most 1,000 at once. Letters that come meanwhile stay."), "Drop", {
        danger: true,
        act: function () {
            change(page.dataset.dropUrl, body, function (told) {
                return plural(told.dropped, "letter") + " dropped." + (told.more ? " There are more." : "");
            });
        },
    });
}

// All that was seen when the button was pressed, and nothing that came after.
function those() {
    return Object.assign({ before: seenUntil_ms }, kind.value ? { kind: kind.value } : {});
}

function bulk(id, act) {
    const found = document.getElementById(id);
    if (found) {
        found.addEventListener("click", function () {
            act(plural(Number(found.dataset.count), kind.value ? kind.value + " letter" : "letter"), those());
        });
    }
}

bulk("letters-replay", function (what, body) {
    ask("Replay " + what + "?", "The jobs run again with the same ids and arguments, at most 1,000 at once. Emails"
        + " that might arrive twice stay here.", "Replay", {
        act: function () { change(page.dataset.replayUrl, body, replayed); },
    });
});
bulk("letters-drop", askDrop);
lettersMore.addEventListener("click", function () {
    lettersShown = Math.min(mostLetters, lettersShown + 100);
    lookAnew();
});
kind.addEventListener("change", lookAnew);
