import { keywheel, ofOurs } from "@/lib/keywheel";

interface Context {
  params: Promise<{ id: string }>;
}

export async function GET(_: Request, { params }: Context): Promise<Response> {
  const { id } = await params;
  return ofOurs(id, async () => Response.json(await keywheel.status(id)));
}

export async function DELETE(_: Request, { params }: Context): Promise<Response> {
  const { id } = await params;
  return ofOurs(id, async () => Response.json({ cancelled: await keywheel.cancel(id) }));
}
