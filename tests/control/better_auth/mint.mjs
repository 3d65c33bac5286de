// Signs a user up with the real library, and prints what a client of it would hold.
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { bearer, jwt } from "better-auth/plugins";
import { createEmailVerificationToken } from "better-auth/api";

const base = "http://127.0.0.1:1";
const secret = process.env.BETTER_AUTH_SECRET;

function library(kind, expires) {
  const database = { user: [], session: [], account: [], verification: [], jwks: [] };
  return betterAuth({
    baseURL: base,
    secret,
    database: memoryAdapter(database),
    emailAndPassword: { enabled: true },
    telemetry: { enabled: false },
    session: { cookieCache: { enabled: true, strategy: "jwt", maxAge: 300 } },
    plugins: [bearer(), jwt({ jwks: { keyPairConfig: { alg: kind } }, jwt: { expirationTime: expires } })],
  });
}

async function ask(auth, path, { body, cookie } = {}) {
  const headers = { "content-type": "application/json", origin: base };
  if (cookie) headers.cookie = cookie;
  const answer = await auth.handler(new Request(`${base}/api/auth${path}`, {
    method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body),
  }));
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer;
}

async function minted(kind, expires = "15m") {
  const auth = library(kind, expires);
  const body = { email: "user@example.com", password: "correct horse battery", name: "User" };
  const signedUp = await ask(auth, "/sign-up/email", { body });
  const cookies = Object.fromEntries(signedUp.headers.getSetCookie().map((cookie) => {
    const [pair] = cookie.split(";");
    const at = pair.indexOf("=");
    return [pair.slice(0, at), decodeURIComponent(pair.slice(at + 1))];
  }));
  const cookie = signedUp.headers.getSetCookie().map((text) => text.split(";")[0]).join("; ");
  const { token } = await (await ask(auth, "/token", { cookie })).json();
  const jwks = await (await ask(auth, "/jwks")).json();
  return { token, jwks, user: (await signedUp.json()).user.id, cookies };
}

const eddsa = await minted("EdDSA");
const rs256 = await minted("RS256");
const late = await minted("EdDSA", new Date(Date.now() - 3_600_000));
console.log(JSON.stringify({
  eddsa: { token: eddsa.token, jwks: eddsa.jwks, user: eddsa.user },
  rs256: { token: rs256.token, jwks: rs256.jwks, user: rs256.user },
  expired: { token: late.token, jwks: late.jwks },
  // The cookies: a session signed with the secret (HS256), and the library's own form, which is no JSON web token.
  session_data: eddsa.cookies["better-auth.session_data"],
  session_token: eddsa.cookies["better-auth.session_token"],
  // Signed with the same secret, sent by mail, and no session of anybody.
  mail: await createEmailVerificationToken(secret, "user@example.com"),
}));
