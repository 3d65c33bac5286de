export function extra(since: Date): string {
  return `since ${since.toISOString().slice(0, 10)}`;
}
