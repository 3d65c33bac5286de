export interface Task {
  title: string;
  done: boolean;
  tags: string[];
}

export function parseTask(line: string): Task {
  const done = /^\s*x\s/.test(line);
  const tags = [...line.matchAll(/#(\w+)/g)].map((found) => found[1] as string);
  const title = line.replace(/^\s*x\s/, "").replace(/#\w+/g, "").trim();
  return { title, done, tags };
}

export function progress(tasks: readonly Task[]): number {
  return tasks.length === 0 ? 0 : tasks.filter((task) => task.done).length / tasks.length;
}
