// Counts what is as expected, and says what is not.
import { isDeepStrictEqual } from "node:util";

let passed = 0;
let failed = 0;

// A reply in RESP3 may be an object without a prototype.
const plain = (value) => (value && typeof value === "object" ? JSON.parse(JSON.stringify(value)) : value);

export function check(name, actual, expected) {
  if (isDeepStrictEqual(plain(actual), expected)) {
    passed += 1;
    return;
  }
  failed += 1;
  console.error(`${name}: got ${JSON.stringify(actual)}, expected ${JSON.stringify(expected)}`);
}

export function done(client) {
  console.log(`${client.padEnd(12)} passed ${passed}  failed ${failed}`);
  process.exitCode = failed === 0 ? 0 : 1;
}
