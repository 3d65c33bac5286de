// For a server of Node: answers what is below the path of Better Auth, and says whether it has.
//
//     http.createServer(async (request, response) => {
//       if (await authenticate(request, response)) return
//       const session = await sessionOf(request)
//       ...
//     })
import { fromNodeHeaders, toNodeHandler } from 'better-auth/node'

import { auth, options } from './auth.mjs'

const handler = toNodeHandler(auth)

export async function authenticate(request, response) {
  const path = new URL(request.url, 'http://localhost').pathname
  if (path !== options.basePath && !path.startsWith(`${options.basePath}/`)) return false
  await handler(request, response)
  return true
}

// The session of who asks, or null.
export function sessionOf(request) {
  return auth.api.getSession({ headers: fromNodeHeaders(request.headers) })
}
