// Shows the latest calls with a key, and requests them only while a person looks at them.

import { make, page, setText, taskLink } from "./elements.js";
import { showEntries } from "./focus.js";
import { request } from "./server.js";
import { clockTime, words } from "./words.js";

// key: returns the present state of the key
export function makeCalls(service, key) {
    const details = make("details", "key-calls");
    const list = make("ol");
    const summary = make("summary", "", "Latest calls");
    summary.setAttribute("aria-label", "Latest calls with key " + key().label);
    details.append(summary, list);
    const view = { details: details, list: list, service: service, key: key, seen: null };
    details.addEventListener("toggle", function () {
        view.seen = null;
        showCalls(view);
    });
    return view;
}

export async function showCalls(view) {
    const key = view.key();
    if (!view.details.open || view.seen === key.calls) {
        return;
    }
    view.seen = key.calls;
    try {
        const query = new URLSearchParams({ service: view.service, key: key.id });
        const calls = (await request(page.dataset.callsUrl + "?" + query)).calls;
        showEntries(view.list, calls.length ? calls : ["none yet"], makeCall);
    } catch (error) {
        showEntries(view.list, [error.message], makeCall);
    }
}

// call: a call, or a sentence if there is no call
function makeCall(call) {
    if (typeof call === "string") {
        return make("li", "", call);
    }
    const item = make("li");
    const text = make("span");
    setText(
        text,
        clockTime(call.at_ms)
            + " "
            + words(call.code)
            + (call.model ? " · " + call.model : "")
            + " "
    );
    item.append(text);
    if (call.job) {
        item.append(taskLink(call.job));
    }
    return item;
}
