// Sends requests to the admin endpoints.

const timeout_ms = 10000;
const change_timeout_ms = 65000; // a replay of many jobs takes long

// Sends a request, and returns the response without reading its body.
export async function opened(url, options) {
    let response = null;
    try {
        response = await fetch(
            url,
            Object.assign({ credentials: "same-origin", cache: "no-store" }, options)
        );
    } catch (error) {
        throw error instanceof TypeError ? new Error("Flower cannot be reached.") : error;
    }
    if (!response.ok) {
        const body = await response.json().catch(function () { return {}; });
        const failure = new Error(
            body.message || "Flower answered with the status " + response.status + "."
        );
        failure.status = response.status;
        throw failure;
    }
    return response;
}

export async function request(url, options) {
    const controller = new AbortController();
    const timer = setTimeout(
        function () {
            controller.abort();
        },
        options ? change_timeout_ms : timeout_ms
    );
    try {
        const response = await opened(url, Object.assign({ signal: controller.signal }, options));
        return await response.json();
    } catch (error) {
        throw error.name === "AbortError" ? new Error("Flower did not answer in time.") : error;
    } finally {
        clearTimeout(timer);
    }
}

function cookie(name) {
    const pair = document.cookie.split("; ").find(function (text) {
        return text.startsWith(name + "=");
    });
    return pair ? decodeURIComponent(pair.slice(name.length + 1)) : "";
}

export function post(url, body) {
    return request(url, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf") },
        body: JSON.stringify(body),
    });
}
