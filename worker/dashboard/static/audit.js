// The audit trail.

import { make, setText, taskLink } from "./elements.js";
import { lookAnew } from "./poller.js";
import { clockTime, limitWords, words } from "./words.js";

const auditRows = document.getElementById("keys-audit-rows");
const auditBy = document.getElementById("audit-by");
const auditOlder = document.getElementById("audit-older");
const auditNewest = document.getElementById("audit-newest");

const eventWords = { cooled: "rests", unfit: "is not asked for it", disabled: "disabled", reset: "reset", freed: "enabled again",
    limit_learned: "limit learned", account_learned: "account learned", lease_expired: "call not reported in time" };

const scopeWords = { key: "key", account: "account", account_model: "account × model", key_resource: "key ×", model: "model",
    host: "provider", service: "all keys of", dead_letter: "job" };

let auditBefore = null; // where the page that is shown begins; null: it is the newest one
let auditNext = null;

export function auditQuery() {
    return "?count=30&by=" + auditBy.value + (auditBefore ? "&before=" + auditBefore : "");
}

// Why an entry was made; a limit that was learned, such as rpm=30, in words.
function auditWhy(entry) {
    const limit = /^([a-z]+p(?:s|m|d|mo))(?:=(\d+)| (.*))$/.exec(entry.reason);
    return !limit ? words(entry.reason) : limit[2] ? limitWords(limit[1], Number(limit[2]))
        : limitWords(limit[1]) + " " + limit[3];
}

export function auditMessage(text) {
    auditRows.dataset.are = "";
    const cell = make("td", "", text);
    cell.colSpan = 6;
    const row = make("tr");
    row.append(cell);
    auditRows.replaceChildren(row);
}

// Who did it: a person, a program, or a job, which Flower has a page of.
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

export function showAudit(told) {
    auditNext = told.next_before;
    auditOlder.hidden = auditNext === null;
    auditNewest.hidden = auditBefore === null;
    if (!told.entries.length) {
        auditMessage("Nothing yet.");
        return;
    }
    const are = JSON.stringify(told.entries);
    if (auditRows.dataset.are === are) {
        return;
    }
    auditRows.dataset.are = are;
    auditRows.replaceChildren.apply(auditRows, told.entries.map(function (entry) {
        const row = make("tr");
        [clockTime(entry.at_ms), entry.service, eventWords[entry.event] || entry.event,
            (scopeWords[entry.scope] || entry.scope) + " " + entry.name, auditWhy(entry)].forEach(
            function (text) { row.append(make("td", "", text)); });
        row.append(author(entry.by));
        return row;
    }));
}

function turnTo(before) {
    auditBefore = before;
    lookAnew();
}

auditBy.addEventListener("change", function () { turnTo(null); });
auditOlder.addEventListener("click", function () { turnTo(auditNext); });
auditNewest.addEventListener("click", function () { turnTo(null); });
