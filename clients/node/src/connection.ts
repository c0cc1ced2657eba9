/** Sends commands over a client of either Redis library. */

import { kindOf } from "./checks.js";
import { Unavailable } from "./errors.js";

interface IoRedis {
  call(command: string, ...args: string[]): Promise<unknown>;
}

interface NodeRedis {
  sendCommand(args: string[]): Promise<unknown>;
}

/** A connected client of `redis` (node-redis) or of `ioredis`. The caller closes it. */
export type RedisClient = IoRedis | NodeRedis;

/** Sends one command, and returns Redis' reply. */
export type Send = (command: string, ...args: string[]) => Promise<unknown>;

/** Make a function that sends commands over a client. */
export function sender(redis: RedisClient, name = "redis"): Send {
  const usable = redis as { call?: unknown; sendCommand?: unknown } | null | undefined;
  if (typeof usable?.call !== "function" && typeof usable?.sendCommand !== "function") {
    throw new TypeError(`${name} must be a client of redis or ioredis, but is ${kindOf(redis)}`);
  }
  const send: Send = "call" in redis
    ? (command, ...args) => redis.call(command, ...args)
    : (command, ...args) => redis.sendCommand([command, ...args]);
  return async (command, ...args) => {
    try {
      return await send(command, ...args);
    } catch (error) {
      throw new Unavailable(error);
    }
  };
}
