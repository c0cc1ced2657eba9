// Shows the provider answers that this version does not know.

import { make } from "./elements.js";
import { showEntries } from "./focus.js";
import { clockTime, count } from "./words.js";

export function showUnknown(answers) {
    document.getElementById("keys-unknown").hidden = !answers.length;
    showEntries(document.getElementById("unknown-rows"), answers, function (answer) {
        const row = make("tr");
        row.append(make("td", "", clockTime(answer.last_ms)), make("td", "", answer.service),
            make("td", "", answer.kind.replaceAll("_", " ")), make("td", "", answer.shape),
            make("td", "", count(answer.count)));
        return row;
    });
}
