// Serves a stdio server over Streamable HTTP, a process for each session, for clients that speak HTTP only.
//
// argv: the folder with node_modules, then the server's command. stdout: its URL, as the only line.
const { createRequire } = require("node:module");
const { randomUUID } = require("node:crypto");
const http = require("node:http");
const [, , folder, command, ...args] = process.argv;
const packages = createRequire(`${folder}/here.cjs`);
const { StreamableHTTPServerTransport } = packages("@modelcontextprotocol/sdk/server/streamableHttp.js");
const { StdioClientTransport } = packages("@modelcontextprotocol/sdk/client/stdio.js");

const sessions = new Map();

async function open() {
  const server = new StdioClientTransport({ command, args, env: process.env });
  const client = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    onsessioninitialized: (id) => sessions.set(id, client),
    enableDnsRebindingProtection: true,
    allowedHosts: [`127.0.0.1:${listener.address().port}`],
  });
  client.onmessage = (message) => server.send(message).catch(() => client.close());
  client.onclose = () => server.close();
  server.onmessage = (message) => client.send(message).catch(() => {}); // whoever asked has gone
  await server.start();
  return client;
}

const listener = http.createServer(async (request, response) => {
  const client = sessions.get(request.headers["mcp-session-id"]) ?? (await open());
  await client.handleRequest(request, response);
});

listener.listen(0, "127.0.0.1", () => {
  process.stdout.write(`http://127.0.0.1:${listener.address().port}/mcp\n`);
});
