import { formatISO } from "date-fns";
import { groupBy, range } from "lodash-es";
import * as R from "ramda";
import { firstValueFrom, from, toArray } from "rxjs";
import { z } from "zod";

const shape = z.object({ even: z.array(z.number()), odd: z.array(z.number()) });

export function extra(since: Date): string {
  const groups = shape.parse(groupBy(range(10), (n: number) => (n % 2 === 0 ? "even" : "odd")));
  void firstValueFrom(from(groups.even).pipe(toArray()));
  return `since ${formatISO(since, { representation: "date" })}: ${R.sum(groups.odd)}`;
}
