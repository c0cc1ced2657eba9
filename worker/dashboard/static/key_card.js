// Shows the card of one key.

import { askDisable, askNote, askReset, checkKeys, enable } from "./actions.js";
import { makeCalls, showCalls } from "./key_calls.js";
import { button, make, narrow, page, readOnly, setText } from "./elements.js";
import { showSome } from "./focus.js";
import { blockWords, clockTime, count, duration, grouped, limitName, plural } from "./words.js";

export function makeCard(service, key) {
    const article = make("article", "key-card");
    article.dataset.keyId = key.id;
    const label = make("h3", "key-label", key.label);
    label.id = "key-" + key.id;
    article.setAttribute("aria-labelledby", label.id);
    const state = make("span", "key-state");
    const head = make("div", "key-head");
    head.append(label, state);
    const account = make("span");
    const used = make("span");
    const origin = make("p", "key-origin");
    origin.append(
        make("span", "", key.variable),
        make("span", "key-id", "id " + key.id),
        account,
        used
    );
    const blocks = make("ul", "key-blocks");
    const use = make("p", "key-use");
    const note = make("p", "key-note");
    const more = make("details", "key-more");
    const lowest = make("summary");
    const buckets = make("div", "key-buckets");
    more.append(lowest, origin, buckets);
    article.append(head, note, blocks, use, more);
    const card = {
        article: article,
        service: service,
        state: state,
        account: account,
        blocks: blocks,
        use: use,
        note: note,
        used: used,
        more: more,
        lowest: lowest,
        buckets: buckets,
        key: key,
        ends: [],
        blocksListed: "",
        bucketsListed: "",
        meters: [],
    };
    card.calls = makeCalls(service, function () { return card.key; });
    more.append(card.calls.details);
    if (!readOnly) {
        const foot = make("div", "key-buttons");
        card.disable = button(
            "Disable",
            "Disable key " + key.label,
            "btn-outline-danger",
            function () {
                askDisable(service, card.key);
            }
        );
        card.enable = button(
            "Enable",
            "Enable key " + key.label,
            "btn-outline-primary",
            function () {
                enable(service, card.key);
            }
        );
        const check = button(
            "Check",
            "Check key " + key.label,
            "btn-outline-secondary",
            function () {
                checkKeys(check, { service: service, key: key.id });
            }
        );
        foot.append(
            check,
            button("Note", "Note on key " + key.label, "btn-outline-secondary", function () {
                askNote(service, card.key);
            }),
            button("Reset", "Reset key " + key.label, "btn-outline-primary", function () {
                askReset("key " + key.label, { service: service, key: key.id });
            }),
            card.disable,
            card.enable
        );
        more.append(foot);
    }
    unfold(card);
    return card;
}

// The parts add up to the number of calls: each call has ended in one of these ways.
function useWords(key) {
    const parts = [[key.accepted, "accepted"], [key.refused, "refused"], [key.faults, "failed"],
        [key.rejected, "rejected"]]
        .filter(function (part) { return part[0]; })
        .map(function (part) { return count(part[0]) + " " + part[1]; });
    return (
        (key.calls ? plural(key.calls, "call") + ": " + parts.join(", ") : "not called yet")
        + (key.tokens ? " · " + plural(key.tokens, "token") : "")
        + (key.in_flight
            ? " · "
              + count(key.in_flight)
              + (key.state === "disabled" ? " still" : "")
              + " in flight"
            : "")
    );
}

function disabledByHand(key) {
    return key.blocks.some(function (block) { return block.scope === "key" && block.disabled_by; });
}

function accountWords(service, key) {
    if (key.account !== key.id) {
        return "account " + key.account;
    }
    return page.dataset.namesAccounts.split(" ").includes(service)
        ? "account not known yet" : "counts as an account of its own";
}

export function showCard(card, key) {
    card.key = key;
    card.article.dataset.state = key.state;
    setText(card.state, key.state);
    setText(card.account, accountWords(card.service, key));
    setText(card.use, useWords(key));
    showCalls(card.calls);
    setText(card.used, key.used_ms ? "last used " + clockTime(key.used_ms) : "");
    setText(card.note, key.note);
    card.note.hidden = !key.note;
    if (card.disable) {
        const isDisabled = disabledByHand(key);
        showSome([[card.disable, !isDisabled], [card.enable, isDisabled]]);
    }
    showBlocks(card, grouped(key.blocks));
    showBuckets(card, key.buckets);
}

// On a phone, a card shows only a few lines until a person opens it.
export function unfold(card) {
    card.more.open = !narrow.matches;
}

function showBlocks(card, blocks) {
    const listed = JSON.stringify(blocks.map(blockWords));
    if (listed !== card.blocksListed) {
        card.blocksListed = listed;
        card.blocks.hidden = !blocks.length;
        card.blocks.replaceChildren();
        card.ends = blocks.map(function (block) {
            const item = make("li");
            const left = make("strong", "key-left");
            const what = make("span", "", " · " + blockWords(block));
            what.title = block.names ? block.names.join(", ") : "";
            item.append(left, what);
            card.blocks.append(item);
            return { left: left, until: null, forever: !block.disabled_by ? "until reset"
                : block.scope === "host" ? "until resumed" : "until enabled" };
        });
    }
    blocks.forEach(function (block, index) {
        card.ends[index].until = block.left_ms === null ? null : performance.now() + block.left_ms;
    });
    countDown(card);
}

export function countDown(card) {
    card.ends.forEach(function (end) {
        setText(
            end.left,
            end.until === null ? end.forever : duration(end.until - performance.now())
        );
    });
}

function showBuckets(card, buckets) {
    const listed = JSON.stringify(
        buckets.map(function (bucket) {
            return [bucket.model, bucket.dimension, bucket.window_ms];
        })
    );
    if (listed !== card.bucketsListed) {
        card.bucketsListed = listed;
        card.buckets.replaceChildren();
        let model = "";
        card.meters = buckets.map(function (bucket) {
            if (bucket.model !== model) {
                model = bucket.model;
                card.buckets.append(make("h4", "key-model", model));
            }
            return makeMeter(card.buckets, bucket);
        });
    }
    let lowest = null;
    buckets.forEach(function (bucket, index) {
        const row = card.meters[index];
        const left = Math.min(Math.max(bucket.remaining, 0), bucket.limit);
        const share = bucket.limit > 0 ? left / bucket.limit : 0;
        const text = count(left) + " of " + count(bucket.limit) + " left";
        setText(row.number, text);
        row.meter.setAttribute("aria-valuemax", String(Math.round(bucket.limit)));
        row.meter.setAttribute("aria-valuenow", String(Math.round(left)));
        row.meter.setAttribute("aria-valuetext", text);
        row.bar.style.width = (share * 100).toFixed(1) + "%";
        row.bar.dataset.level = share < 0.1 ? "low" : share < 0.3 ? "middle" : "high";
        if (lowest === null || share < lowest.share) {
            lowest = { share: share, name: limitName(bucket) };
        }
    });
    setText(
        card.lowest,
        (readOnly ? "Limits · " : "Limits and actions · ")
            + (lowest === null
                ? "none known yet"
                : "lowest: " + Math.floor(lowest.share * 100) + " % left of " + lowest.name)
    );
}

function makeMeter(buckets, bucket) {
    const row = make("div", "key-bucket");
    const name = limitName(bucket);
    const number = make("span", "key-bucket-number");
    const meter = make("div", "key-meter");
    const bar = make("div", "key-meter-bar");
    meter.setAttribute("role", "meter");
    meter.setAttribute("aria-valuemin", "0");
    const ofModel = bucket.model ? ", " + bucket.model : "";
    meter.setAttribute("aria-label", "Left of the " + name + ofModel);
    meter.append(bar);
    row.append(
        make("span", "key-bucket-name", name.charAt(0).toUpperCase() + name.slice(1)),
        number,
        meter
    );
    buckets.append(row);
    return { number: number, meter: meter, bar: bar };
}
