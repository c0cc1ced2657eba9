// The page Keys: the server pushes the status, and the buttons send requests to the admin
// endpoints.

import { askReset, checkKeys, reloadKeys } from "./actions.js";
import { showBanner, tickBanner } from "./banner.js";
import { auditMessage, auditQuery, showAudit } from "./audit.js";
import { page, setText } from "./elements.js";
import { lettersQuery, showLetters } from "./dead_letters.js";
import { start, showFreshness } from "./live.js";
import { goToPlace } from "./place.js";
import { countDownAll, showService } from "./service.js";
import { showUnknown } from "./unknown.js";

function showStatus(status) {
    showBanner(status);
    Object.keys(status.services).forEach(function (service) {
        showService(service, status.services[service]);
    });
    showUnknown(status.unknown_answers);
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
    checkAll.addEventListener("click", function () { checkKeys(checkAll, null); });
}
const reloadAll = document.getElementById("reload-all");
if (reloadAll) {
    reloadAll.addEventListener("click", function () { reloadKeys(reloadAll); });
}
setInterval(function () {
    countDownAll();
    tickBanner(showFreshness());
}, 250);
start({
    lists: function () {
        return [page.dataset.lettersUrl + lettersQuery(), page.dataset.auditUrl + auditQuery()];
    },
    show: showStatus,
    showLists: function (answers, urls) {
        showLetters(answers[0], urls[0]);
        showAudit(answers[1]);
        goToPlace();
    },
    showNothing: function () {
        setText(document.getElementById("letters-count"), "Not known yet.");
        auditMessage("Not known yet.");
    },
});
