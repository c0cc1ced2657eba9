// Dead letters.

import { change } from "./actions.js";
import { openDialog } from "./dialog.js";
import { button, make, narrow, page, readOnly, setText } from "./elements.js";
import { refreshNow } from "./live.js";
import { clockTime, count, plural } from "./words.js";

const maxListed = 500;

const kindWords = { failed: "The provider rejected it, or it raised an error.", expired: "Its deadline had passed.",
    unknown: "It is an email that may have been sent.", timeout: "It was stopped at its time limit.",
    poison: "Its message cannot be run, or workers died of it." };

const lettersMore = document.getElementById("letters-more");
let limit = narrow.matches ? 5 : 20;
let before_ms = 0; // every dead letter in the count ended before this instant
const kind = document.getElementById("letters-kind");
const rows = document.getElementById("letters-rows");

export function lettersQuery() {
    return "?limit=" + limit + (kind.value ? "&kind=" + kind.value : "");
}

function matching(answer) {
    return Object.values(answer.by_service).reduce(function (sum, kinds) {
        return sum + Object.entries(kinds).reduce(function (inner, pair) {
            return inner + (!kind.value || pair[0] === kind.value ? pair[1] : 0);
        }, 0);
    }, 0);
}

export function showLetters(answer) {
    const count_ = matching(answer);
    lettersMore.hidden = count_ <= answer.dead_letters.length || limit >= maxListed;
    before_ms = answer.dead_letters.length ? answer.dead_letters[0].at_ms + 1 : 0;
    setText(document.getElementById("letters-count"), !answer.total ? "No job ended without success."
        : plural(answer.total, "job") + " ended for good without success"
        + (count_ > answer.dead_letters.length ? "; the latest " + count(answer.dead_letters.length) + " of "
            + count(count_) + " are listed." : "."));
    document.getElementById("letters-table").hidden = !answer.dead_letters.length;
    ["letters-replay", "letters-drop"].forEach(function (id) {
        const found = document.getElementById(id);
        if (found) {
            found.disabled = !count_;
            found.dataset.count = count_;
        }
    });
    const listed = JSON.stringify(answer.dead_letters);
    if (rows.dataset.listed !== listed) {
        rows.dataset.listed = listed;
        rows.replaceChildren.apply(rows, answer.dead_letters.map(makeLetter));
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
        replay.title = letter.replayable ? "" : letter.note || "The arguments of this job are no longer kept.";
        const drop = button("Drop", "Drop the dead letter of job " + letter.id, "btn-outline-danger", function () {
            askDrop("the dead letter of " + letter.id, { id: letter.id });
        });
        buttons.append(replay, drop);
        cell.append(buttons);
        row.append(cell);
    }
    return row;
}

function replayed(answer) {
    const refused = answer.refused.length ? " " + plural(answer.refused.length, "job") + " not: "
        + answer.refused[0].reason + (answer.refused.length > 1 ? " And others." : "") : "";
    return plural(answer.replayed.length, "job") + " sent again." + refused + (answer.more ? " There are more." : "");
}

function askReplay(letter) {
    const text = letter.needs_force
        ? "This email may have been sent, too long ago to find out. If you replay it, it may arrive twice."
        : "The job runs again with the same id and arguments"
            + (letter.in_doubt && page.dataset.sendsOnce.split(" ").includes(letter.service) ? "; an email keeps its idempotency key." : ".");
    openDialog("Replay " + letter.task + "?", text, letter.needs_force ? "Send it anyway" : "Replay", {
        danger: letter.needs_force,
        act: function () {
            change(page.dataset.replayUrl, letter.needs_force ? { id: letter.id, force: true } : { id: letter.id },
                replayed);
        },
    });
}

function askDrop(what, body) {
    openDialog("Drop " + what + "?", "The reason and the arguments are deleted for good"
        + (body.id ? "." : ", at most 1,000 at once. Newer dead letters stay."), "Drop", {
        danger: true,
        act: function () {
            change(page.dataset.dropUrl, body, function (answer) {
                return plural(answer.dropped, "dead letter") + " dropped." + (answer.more ? " There are more." : "");
            });
        },
    });
}

// What the page had counted when the button was pressed, and nothing newer.
function countedLetters() {
    return Object.assign({ before: before_ms }, kind.value ? { kind: kind.value } : {});
}

function bulk(id, act) {
    const found = document.getElementById(id);
    if (found) {
        found.addEventListener("click", function () {
            const noun = (kind.value ? kind.value + " " : "") + "dead letter";
            act(plural(Number(found.dataset.count), noun), countedLetters());
        });
    }
}

bulk("letters-replay", function (what, body) {
    openDialog("Replay " + what + "?", "The jobs run again with the same ids and arguments, at most 1,000 at once."
        + " Emails that might arrive twice are left out.", "Replay", {
        act: function () { change(page.dataset.replayUrl, body, replayed); },
    });
});
bulk("letters-drop", askDrop);
lettersMore.addEventListener("click", function () {
    limit = Math.min(maxListed, limit + 100);
    refreshNow();
});
kind.addEventListener("change", refreshNow);
