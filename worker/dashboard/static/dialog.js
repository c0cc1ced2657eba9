// Opens the dialog that asks before a change, and shows the message about the outcome.

import { make, setText } from "./elements.js";
import { count } from "./words.js";

const dialog = document.getElementById("keys-dialog");
const list = document.getElementById("dialog-list");
const why = document.getElementById("dialog-why");
const reason = document.getElementById("dialog-reason");
const time = document.getElementById("dialog-time");
const forSelect = document.getElementById("dialog-for");
const also = document.getElementById("dialog-also");
const include = document.getElementById("dialog-include");
const cancelButton = document.getElementById("dialog-cancel");
const confirmButton = document.getElementById("dialog-confirm");
const maxListed = 12;
let onConfirm = null;

// options: danger, text (the label of a text field) and value (its first content), time (whether to
// ask for how long), lines (a list of the changes), also (the label of a checkbox), act (called
// with the input: also, text, for_s)
export function openDialog(question, text, verb, options) {
    if (dialog.open) { // the question must not change while a person is about to confirm it
        dialog.addEventListener("close", function () {
            openDialog(question, text, verb, options);
        }, { once: true });
        return;
    }
    setText(document.getElementById("dialog-title"), question);
    setText(document.getElementById("dialog-text"), text);
    setText(confirmButton, verb);
    confirmButton.className = "btn " + (options.danger ? "btn-danger" : "btn-primary");
    const lines = options.lines || [];
    list.replaceChildren.apply(
        list,
        lines.slice(0, maxListed).map(function (line) {
            return make("li", "", line);
        })
    );
    if (lines.length > maxListed) {
        list.append(make("li", "", "and " + count(lines.length - maxListed) + " more"));
    }
    list.hidden = !lines.length;
    why.hidden = !options.text;
    setText(document.getElementById("dialog-reason-text"), options.text || "");
    reason.value = options.value || "";
    time.hidden = !options.time;
    forSelect.value = "";
    also.hidden = !options.also;
    include.checked = false;
    setText(document.getElementById("dialog-include-text"), options.also || "");
    cancelButton.hidden = !options.act;
    onConfirm = options.act;
    dialog.showModal();
    (options.text ? reason : confirmButton).focus();
}

function confirm() {
    const act = onConfirm;
    onConfirm = null;
    dialog.close();
    if (act) {
        act({ also: include.checked, text: reason.value.trim(), for_s: Number(forSelect.value) });
    }
}

confirmButton.addEventListener("click", confirm);
reason.addEventListener("keydown", function (event) {
    if (event.key === "Enter" && !event.isComposing) { // otherwise Enter ends a composed word
        event.preventDefault();
        confirm();
    }
});
cancelButton.addEventListener("click", function () { dialog.close(); });

export function showMessage(text, kind) {
    const toast = make("div", "toast show text-bg-" + kind);
    toast.setAttribute("role", kind === "danger" ? "alert" : "status");
    toast.append(make("div", "toast-body", text));
    document.getElementById("toast-container").append(toast);
    setTimeout(function () { toast.remove(); }, 10000);
}
