// The page of the keys: filled from the admin endpoints every second; its buttons send what they ask for.

import { askReset, checkKeys } from "./actions.js";
import { auditMessage, auditQuery, showAudit } from "./audit.js";
import { page, setText } from "./elements.js";
import { lettersQuery, showLetters } from "./dead_letters.js";
import { begin, showFreshness } from "./poller.js";
import { countDownAll, showService } from "./service.js";
import { showUnknown } from "./unknown.js";

const evicts = document.getElementById("keys-evicts");

function showStatus(told) {
    evicts.hidden = !told.evicts;
    setText(evicts, "Redis may throw away jobs, results and the state of the keys when it is full: its maxmemory-policy is "
        + told.evicts + ". Set it to noeviction.");
    Object.keys(told.services).forEach(function (service) { showService(service, told.services[service]); });
    showUnknown(told.unknown_answers);
    const all = document.getElementById("reset-all");
    if (all) {
        all.disabled = false;
    }
}

const resetAll = document.getElementById("reset-all");
if (resetAll) {
    resetAll.addEventListener("click", function () { askReset("all keys of all services", {}); });
}
const checkAll = document.getElementById("check-all");
if (checkAll) {
    checkAll.addEventListener("click", function () { checkKeys(checkAll); });
}
setInterval(function () {
    countDownAll();
    showFreshness();
}, 250);
begin({
    slow: function () { return [page.dataset.lettersUrl + lettersQuery(), page.dataset.auditUrl + auditQuery()]; },
    show: showStatus,
    showSlow: function (letters, audit) {
        showLetters(letters);
        showAudit(audit);
    },
    showNothing: function () {
        setText(document.getElementById("letters-count"), "Not known yet.");
        auditMessage("Not known yet.");
    },
});
