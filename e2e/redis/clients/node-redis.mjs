// What an application does with node-redis, against 127.0.0.1:PORT; ends with a count.
import { createClient, defineScript } from "redis";
import { check, done } from "./check.mjs";

const addTo = defineScript({
  NUMBER_OF_KEYS: 1,
  SCRIPT: "return redis.call('incrby', KEYS[1], ARGV[1])",
  parseCommand: (parser, key, amount) => {
    parser.pushKey(key);
    parser.push(String(amount));
  },
  transformReply: (reply) => reply,
});
const options = { url: `redis://127.0.0.1:${process.env.PORT}`, scripts: { addTo } };
const client = await createClient(options).connect();
const waiter = await createClient(options).connect();
const listener = await createClient(options).connect();

check("set", await client.set("nr:k", "v", { EX: 100 }), "OK");
check("get", await client.get("nr:k"), "v");
check("pipelined", await Promise.all([client.incr("nr:n"), client.incr("nr:n")]), [1, 2]);
check("multi", await client.multi().hSet("nr:h", { a: "1" }).hGetAll("nr:h").exec(), [1, { a: "1" }]);
check("zset", await client.zAdd("nr:z", [{ score: 1.5, value: "a" }]), 1);
check("zscore", await client.zScore("nr:z", "a"), 1.5);
check("script", await client.addTo("nr:n", 40), 42);
const element = waiter.blPop("nr:l", 5);
await client.rPush("nr:l", "x");
check("blpop", await element, { key: "nr:l", element: "x" });
let hear;
const heard = new Promise((resolve) => (hear = resolve));
await listener.subscribe("nr:c", (message) => hear(message));
check("publish", await client.publish("nr:c", "hi"), 1);
check("message", await heard, "hi");
let keys = [];
for await (const page of client.scanIterator({ MATCH: "nr:*" })) keys = keys.concat(page);
check("scan", keys.sort(), ["nr:h", "nr:k", "nr:n", "nr:z"]);
check("error", await client.hGet("nr:k", "f").catch((error) => error.message.split(" ")[0]), "WRONGTYPE");
await Promise.all([client, waiter, listener].map((each) => each.close()));
done("node-redis");
