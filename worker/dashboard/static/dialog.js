// Asks before something is done, and says what came of it.

import { make, setText } from "./elements.js";
import { count } from "./words.js";

const dialog = document.getElementById("keys-dialog");
const list = document.getElementById("dialog-list");
const why = document.getElementById("dialog-why");
const reason = document.getElementById("dialog-reason");
const also = document.getElementById("dialog-also");
const include = document.getElementById("dialog-include");
const cancelButton = document.getElementById("dialog-cancel");
const confirmButton = document.getElementById("dialog-confirm");
const mostListed = 12;
let decided = null;

// options: danger, reason (ask for one), lines (what will change), also (what a tick adds), act (is told what
// was said: also, reason)
export function ask(question, text, verb, options) {
    setText(document.getElementById("dialog-title"), question);
    setText(document.getElementById("dialog-text"), text);
    setText(confirmButton, verb);
    confirmButton.className = "btn " + (options.danger ? "btn-danger" : "btn-primary");
    const lines = options.lines || [];
    list.replaceChildren.apply(list, lines.slice(0, mostListed).map(function (line) { return make("li", "", line); }));
    if (lines.length > mostListed) {
        list.append(make("li", "", "and " + count(lines.length - mostListed) + " more"));
    }
    list.hidden = !lines.length;
    why.hidden = !options.reason;
    reason.value = "by hand";
    also.hidden = !options.also;
    include.checked = false;
    setText(document.getElementById("dialog-include-text"), options.also || "");
    cancelButton.hidden = !options.act;
    decided = options.act;
    dialog.showModal();
    (options.reason ? reason : confirmButton).focus();
}

function confirmed() {
    const act = decided;
    decided = null;
    dialog.close();
    if (act) {
        act({ also: include.checked, reason: reason.value.trim() || "by hand" });
    }
}

confirmButton.addEventListener("click", confirmed);
reason.addEventListener("keydown", function (event) {
    if (event.key === "Enter") {
        event.preventDefault();
        confirmed();
    }
});
cancelButton.addEventListener("click", function () { dialog.close(); });

export function say(text, kind) {
    const toast = make("div", "toast show text-bg-" + kind);
    toast.setAttribute("role", kind === "danger" ? "alert" : "status");
    toast.append(make("div", "toast-body", text));
    document.getElementById("toast-container").append(toast);
    setTimeout(function () { toast.remove(); }, 10000);
}
