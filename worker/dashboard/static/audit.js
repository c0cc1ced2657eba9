// Shows the audit trail.

import { readAddress, writeAddress } from "./address.js";
import { make, setText, taskLink } from "./elements.js";
import { showEntries, showSome } from "./focus.js";
import { refreshNow } from "./live.js";
import { clockTime, limitWords, words } from "./words.js";

const auditRows = document.getElementById("keys-audit-rows");
const auditBy = document.getElementById("audit-by");
const auditOlder = document.getElementById("audit-older");
const auditNewest = document.getElementById("audit-newest");

const eventWords = { cooled: "rests", unfit: "not available", disabled: "disabled", reset: "reset",
    enabled: "enabled", noted: "note", paused: "paused", resumed: "resumed", reloaded: "reloaded",
    reinstated: "enabled again", limit_learned: "limit learned", account_learned: "account learned",
    lease_expired: "no outcome reported", cancelled: "cancelled", forgotten: "forgotten" };

const scopeWords = {
    key: "key",
    account: "account",
    account_model: "account × model",
    key_resource: "key ×",
    model: "model",
    host: "provider",
    service: "all keys of",
    dead_letter: "job",
    unknown_answers: "unknown answers:",
};

readAddress("by", auditBy);
let auditBefore = null; // the cursor of the page shown; null: the newest page
let auditNext = null;

export function auditQuery() {
    return "?count=30&by=" + auditBy.value + (auditBefore ? "&before=" + auditBefore : "");
}

// Returns the reason of an entry; a learned limit, such as rpm=30, in words.
function auditWhy(entry) {
    const limit = /^([a-z]+p(?:s|m|d|mo))(?:=(\d+)| (.*))$/.exec(entry.reason);
    return !limit ? words(entry.reason) : limit[2] ? limitWords(limit[1], Number(limit[2]))
        : limitWords(limit[1]) + " " + limit[3];
}

export function auditMessage(text) {
    const cell = make("td", "", text);
    cell.colSpan = 6;
    const row = make("tr");
    row.append(cell);
    auditRows.replaceChildren(row);
}

// The author of an entry: a person, a program, or a job, with a link to its page in Flower.
function author(by) {
    const cell = make("td");
    const job = /^(?:task )?([0-9a-f]{8}-[0-9a-f-]{27})(.*)$/.exec(by);
    if (!job) {
        setText(cell, by);
        return cell;
    }
    cell.append(taskLink(job[1]), job[2]);
    return cell;
}

export function showAudit(answer) {
    auditNext = answer.next_before;
    showSome([[auditOlder, auditNext !== null], [auditNewest, auditBefore !== null]]);
    if (!answer.entries.length) {
        auditMessage("No entry yet.");
        return;
    }
    showEntries(auditRows, answer.entries, function (entry) {
        const row = make("tr");
        [clockTime(entry.at_ms), entry.service, eventWords[entry.event] || entry.event,
            (scopeWords[entry.scope] || entry.scope) + " " + entry.name, auditWhy(entry)].forEach(
            function (text) { row.append(make("td", "", text)); });
        row.append(author(entry.by));
        return row;
    });
}

function showPage(before) {
    auditBefore = before;
    writeAddress();
    refreshNow();
}

auditBy.addEventListener("change", function () { showPage(null); });
auditOlder.addEventListener("click", function () { showPage(auditNext); });
auditNewest.addEventListener("click", function () { showPage(null); });
