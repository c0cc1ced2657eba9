// Answers of the providers that nobody knows.

import { make } from "./elements.js";
import { clockTime, count } from "./words.js";

export function showUnknown(answers) {
    const section = document.getElementById("keys-unknown");
    const are = JSON.stringify(answers);
    if (section.dataset.are === are) {
        return;
    }
    section.dataset.are = are;
    section.hidden = !answers.length;
    const list = document.getElementById("unknown-rows");
    list.replaceChildren.apply(list, answers.map(function (one) {
        const row = make("tr");
        row.append(make("td", "", clockTime(one.last_ms)), make("td", "", one.service),
            make("td", "", one.kind.replaceAll("_", " ")), make("td", "", one.shape),
            make("td", "", count(one.count)));
        return row;
    }));
}
