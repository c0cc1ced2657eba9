import { accept, keywheel, textsOf, unreadable } from "@/lib/keywheel";

const NAMES = ["to", "subject", "text"] as const;

export async function POST(request: Request): Promise<Response> {
  const given = await textsOf(request, NAMES);
  return given ? accept(() => keywheel.sendEmail(given)) : unreadable(NAMES);
}
