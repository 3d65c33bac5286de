// Imports every dependency of the package it lies in, as a development server does when it starts. Fails when one is
// missing or broken. Packages of types alone have nothing to import, and vitest only runs inside its own runner.
import { readFileSync } from 'node:fs';

const { dependencies = {}, devDependencies = {} } = JSON.parse(readFileSync('package.json', 'utf8'));
const names = [...Object.keys(dependencies), ...Object.keys(devDependencies)];
let loaded = 0;
for (const name of names) {
  if (name.startsWith('@types/') || name === 'vitest') continue;
  const module = await import(name);
  if (Object.keys(module).length === 0) throw new Error(`${name} exports nothing`);
  loaded += 1;
}
console.log(`${loaded} modules`);
