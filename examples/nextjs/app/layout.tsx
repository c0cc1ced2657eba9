import type { ReactNode } from "react";

export const metadata = { title: "Ask", icons: { icon: "data:," } };

const style = { font: "1rem/1.5 system-ui, sans-serif", maxWidth: "40rem", margin: "2rem auto", padding: "0 1rem" };

export default function Layout({ children }: { children: ReactNode }) {
  return (
    <html lang="en">
      <body style={style}>{children}</body>
    </html>
  );
}
