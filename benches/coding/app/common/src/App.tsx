import { useMemo, useState } from "react";
import { parseTask, progress, type Task } from "./tasks";
import { extra } from "./extra";

export function App() {
  const [tasks, setTasks] = useState<Task[]>([]);
  const [line, setLine] = useState("");
  const done = useMemo(() => progress(tasks), [tasks]);
  return (
    <main>
      <h1>Tasks, {Math.round(done * 100)} % done</h1>
      <p>{extra(new Date(0))}</p>
      <input value={line} onChange={(event) => setLine(event.target.value)} />
      <button onClick={() => setTasks([...tasks, parseTask(line)])}>Add</button>
      <ul>
        {tasks.map((task, i) => (
          <li key={i}>{task.title}</li>
        ))}
      </ul>
    </main>
  );
}
