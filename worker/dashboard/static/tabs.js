// The tabs of one browser share a stream: over HTTP/1.1 a browser opens six connections to a host,
// and each stream keeps one. With six tabs no button would reach Flower any more.

import { page } from "./elements.js";

const quiet_ms = 4000; // after that the tab that reads has gone, or hangs
const answer_ms = 100; // as long a new tab waits for one that reads
const spread_ms = 300; // so that not all tabs begin to read at once
const id = Math.random();
const channel = new BroadcastChannel("keys " + page.dataset.eventsUrl);
let heardAt = -Infinity;

// Returns after how many milliseconds to look again whether this tab has to read; 0: it has to now.
export function waitForOthers() {
    return Math.max(0, heardAt + quiet_ms - performance.now());
}

// Sends the other tabs what this one has read.
export function share(status) {
    channel.postMessage({ from: id, status: status });
}

// tab: isReading (returns whether this tab reads), latest (returns what it has read), leaveOff
// (called where another tab reads, too), hear (called with what another one has read), follow
// (called when this tab may have to read)
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
        } else if (!tab.isReading() || message.from < id) { // of two that read one leaves off
            heardAt = performance.now();
            tab.leaveOff();
            tab.hear(message.status);
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
