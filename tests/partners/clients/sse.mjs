// The events of streams as the TypeScript SDK's parser reads them; in and out as the example `sse_events`. MODULES is the
// folder whose node_modules has the parser.

import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.MODULES}/package.json`);
const { createParser } = await import(pathToFileURL(require.resolve('eventsource-parser')));

for await (const line of createInterface({ input: process.stdin })) {
    const events = [];
    const parser = createParser({ onEvent: ({ event, data }) => events.push([event || 'message', data]) });
    parser.feed(new TextDecoder().decode(Buffer.from(line, 'hex')));
    console.log(JSON.stringify(events));
}
