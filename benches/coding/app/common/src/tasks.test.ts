import { describe, expect, it } from "vitest";
import { parseTask, progress } from "./tasks";

describe("tasks", () => {
  it("reads a line", () => {
    expect(parseTask("x write it #now #here")).toEqual({
      title: "write it",
      done: true,
      tags: ["now", "here"],
    });
  });

  it("counts what is done", () => {
    expect(progress([])).toBe(0);
    expect(progress([parseTask("x a"), parseTask("b")])).toBe(0.5);
  });
});
