// What an application does with ioredis, against 127.0.0.1:PORT; ends with a count.
import Redis from "ioredis";
import { check, done } from "./check.mjs";

const redis = new Redis({ port: Number(process.env.PORT), maxRetriesPerRequest: 1 });
const waiter = redis.duplicate();
const listener = redis.duplicate();

check("set", await redis.set("io:k", "v", "EX", 100), "OK");
check("get", await redis.get("io:k"), "v");
check("buffer", (await redis.getBuffer("io:k")).length, 1);
check("pipeline", (await redis.pipeline().incr("io:n").incr("io:n").get("io:n").exec()).map(([, reply]) => reply), [1, 2, "2"]);
check("multi", (await redis.multi().hset("io:h", { a: 1, b: 2 }).hgetall("io:h").exec()).map(([, reply]) => reply), [2, { a: "1", b: "2" }]);
check("zset", await redis.zadd("io:z", 1, "a", 2, "b"), 2);
check("zrange", await redis.zrange("io:z", 0, -1), ["a", "b"]);
redis.defineCommand("addTo", { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1])" });
check("script", await redis.addTo("io:n", 40), 42);
check("script again", await redis.addTo("io:n", 1), 43);
const element = waiter.blpop("io:l", 5);
await redis.rpush("io:l", "x");
check("blpop", await element, ["io:l", "x"]);
const heard = new Promise((resolve) => listener.on("message", (channel, message) => resolve([channel, message])));
await listener.subscribe("io:c");
check("publish", await redis.publish("io:c", "hi"), 1);
check("message", await heard, ["io:c", "hi"]);
let keys = [];
for await (const page of redis.scanStream({ match: "io:*" })) keys = keys.concat(page);
check("scan", keys.sort(), ["io:h", "io:k", "io:n", "io:z"]);
check("watch", await redis.watch("io:k"), "OK");
await waiter.set("io:k", "other");
check("exec after change", await redis.multi().set("io:k", "mine").exec(), null);
check("error", await redis.hget("io:k", "f").catch((error) => error.message.split(" ")[0]), "WRONGTYPE");
await Promise.all([redis, waiter, listener].map((client) => client.quit()));
done("ioredis");
