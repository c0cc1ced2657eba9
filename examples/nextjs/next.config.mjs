import { fileURLToPath } from "node:url";

/** @type {import("next").NextConfig} */
export default {
  poweredByHeader: false,
  serverExternalPackages: ["redis", "keywheel-client"],
  turbopack: { root: fileURLToPath(new URL("../..", import.meta.url)) }, // the client is outside this folder
};
