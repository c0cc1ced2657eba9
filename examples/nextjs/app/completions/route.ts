import { accept, keywheel, textsOf, unreadable } from "@/lib/keywheel";

const NAMES = ["prompt"] as const;

export async function POST(request: Request): Promise<Response> {
  const given = await textsOf(request, NAMES);
  return given ? accept(() => keywheel.complete({ ...given, stream: true })) : unreadable(NAMES);
}
