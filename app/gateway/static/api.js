// Calls of the HTTP API of this very server.

/** The API said no; `message` is its own text. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** No answer came: the network, the server, or our patience ended. */
export class Unreachable extends Error {}

/**
 * JSON of `path`.
 *
 * Raises ApiError (the API refused), Unreachable (no answer within `timeout_ms`, or none that is JSON); where
 * `signal` aborts, the error is to be ignored by the one who aborted.
 */
export async function call(path, { timeout_ms = 10_000, signal, ...options } = {}) {
  const timeout = AbortSignal.timeout(timeout_ms);
  const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
  let response, text;
  try {
    response = await fetch(path, { cache: "no-store", ...options, signal: either });
    text = await response.text();
  } catch {
    throw new Unreachable(timeout.aborted ? `no answer within ${timeout_ms / 1000} s` : "no connection");
  }
  const body = parsed(text);
  if (response.ok && body !== undefined) return body;
  const message = body?.error?.message ?? `${response.status} ${response.statusText}`.trim();
  if (response.ok) throw new Unreachable("the answer is not JSON");
  throw new ApiError(response.status, message);
}

export function post(path, body, options) {
  return call(path, { method: "POST", headers: { "content-type": "application/json" }, body, ...options });
}

function parsed(text) {
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}

/** JSON.parse that keeps whole numbers beyond 2^53 exact, as BigInt, where the browser shows their source. */
export function parseJson(text) {
  return JSON.parse(text, (_key, value, context) => {
    const unsafe = typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value);
    return unsafe && /^-?\d+$/.test(context?.source ?? "") ? BigInt(context.source) : value;
  });
}

/** The way back from `parseJson`. */
export function showJson(value, indent) {
  const exact = (_key, item) => {
    if (typeof item !== "bigint") return item;
    return JSON.rawJSON ? JSON.rawJSON(String(item)) : String(item);
  };
  return JSON.stringify(value, exact, indent);
}

/** The path of one document. Raises Error for the ids `.` and `..`, which fetch resolves, also as %2E. */
export function documentPath(id) {
  if (id === "." || id === "..") throw new Error("no browser can ask for this id; GET /documents/{id} of the API has it");
  return `/documents/${encodeURIComponent(id)}`;
}
