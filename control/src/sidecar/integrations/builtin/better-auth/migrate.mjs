// Makes the tables that Better Auth needs and that are not there.
import { getMigrations } from 'better-auth/db/migration'

import { database, options } from './auth.mjs'

const { toBeCreated, toBeAdded, runMigrations } = await getMigrations(options)
await runMigrations()
const names = [...toBeCreated, ...toBeAdded].map((one) => one.table)
console.log(names.length ? `made: ${names.join(', ')}` : 'all tables are there')
await database.end()
