// Lets the tabs of one browser share a stream. Over HTTP/1.1 a browser opens at most six
// connections to a host, and each stream occupies one. With a stream in each of six tabs, no button
// could reach Flower.

import { page } from "./elements.js";

const quiet_ms = 4000; // if the reading tab shares nothing for this long, it is closed or hangs
const answer_ms = 100; // how long a new tab waits for an answer of the reading tab
const spread_ms = 300; // a random delay up to this keeps tabs from beginning to read together
const id = Math.random();
const channel = new BroadcastChannel("keys " + page.dataset.eventsUrl);
let heardAt = -Infinity;

// Returns the milliseconds after which to check again whether this tab must read; 0 if it must now.
export function waitForOthers() {
    return Math.max(0, heardAt + quiet_ms - performance.now());
}

// Sends the other tabs the status that this tab has read.
export function share(status) {
    channel.postMessage({ from: id, status: status });
}

// tab: isReading (returns whether this tab reads), latest (returns the latest status), stopReading
// (called if another tab reads, too), receive (called with the status that another tab has read),
// follow (called when this tab may have to read)
export function joinTabs(tab) {
    channel.addEventListener("message", function (event) {
        const message = event.data;
        if (message.asks) {
            if (tab.isReading() && tab.latest()) {
                share(tab.latest());
            }
        } else if (message.leaves) {
            heardAt = -Infinity;
            setTimeout(tab.follow, Math.random() * spread_ms);
        } else if (!tab.isReading() || message.from < id) { // one of two reading tabs stops
            heardAt = performance.now();
            tab.stopReading();
            tab.receive(message.status);
        }
    });
    window.addEventListener("pagehide", function () {
        if (tab.isReading()) {
            channel.postMessage({ leaves: true });
        }
    });
    channel.postMessage({ asks: true });
    setTimeout(tab.follow, answer_ms);
}
