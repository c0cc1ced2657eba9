// Sends requests to the admin endpoints.

const timeout_ms = 10000;
const change_timeout_ms = 65000; // a replay of many jobs takes long

export async function request(url, options) {
    const controller = new AbortController();
    const timer = setTimeout(function () { controller.abort(); }, options ? change_timeout_ms : timeout_ms);
    try {
        const response = await fetch(url, Object.assign(
            { credentials: "same-origin", cache: "no-store", signal: controller.signal }, options));
        const body = await response.json().catch(function () { return {}; });
        if (!response.ok) {
            const failure = new Error(body.message || "Flower answered with the status " + response.status + ".");
            failure.status = response.status;
            throw failure;
        }
        return body;
    } catch (error) {
        if (error.name === "AbortError") {
            throw new Error("Flower did not response in time.");
        }
        throw error instanceof TypeError ? new Error("Flower cannot be reached.") : error;
    } finally {
        clearTimeout(timer);
    }
}

function cookie(name) {
    const pair = document.cookie.split("; ").find(function (text) { return text.startsWith(name + "="); });
    return pair ? decodeURIComponent(pair.slice(name.length + 1)) : "";
}

export function post(url, body) {
    return request(url, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf") },
        body: JSON.stringify(body),
    });
}
