// Users and sessions, in the database that DATABASE_URL names. BETTER_AUTH_SECRET is what sessions are signed with.
import { betterAuth } from 'better-auth'
import pg from 'pg'

for (const name of ['BETTER_AUTH_SECRET', 'DATABASE_URL']) {
  if (!process.env[name]) throw new Error(`${name} is not set`)
}

export const database = new pg.Pool({ connectionString: process.env.DATABASE_URL })
// A connection that breaks while nobody uses it is opened again.
database.on('error', (error) => console.error(`database: ${error.message}`))

export const options = {
  database,
  basePath: process.env.BETTER_AUTH_BASE_PATH || '/api/auth',
  // What users reach the app at, when that is not where it is asked at.
  ...(process.env.BETTER_AUTH_URL ? { baseURL: process.env.BETTER_AUTH_URL } : {}),
  secret: process.env.BETTER_AUTH_SECRET,
  emailAndPassword: { enabled: true },
}

export const auth = betterAuth(options)
