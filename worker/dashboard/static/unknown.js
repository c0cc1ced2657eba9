// Provider answers that this version does not know.

import { make } from "./elements.js";
import { clockTime, count } from "./words.js";

export function showUnknown(answers) {
    const section = document.getElementById("keys-unknown");
    const listed = JSON.stringify(answers);
    if (section.dataset.listed === listed) {
        return;
    }
    section.dataset.listed = listed;
    section.hidden = !answers.length;
    const list = document.getElementById("unknown-rows");
    list.replaceChildren.apply(list, answers.map(function (answer) {
        const row = make("tr");
        row.append(make("td", "", clockTime(answer.last_ms)), make("td", "", answer.service),
            make("td", "", answer.kind.replaceAll("_", " ")), make("td", "", answer.shape),
            make("td", "", count(answer.count)));
        return row;
    }));
}
