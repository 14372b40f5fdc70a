// As the template of JupyterLab extensions has it.
const jestJupyterLab = require('@jupyterlab/testutils/lib/jest-config');

// Packages that are written as ES modules, which have to be translated.
const esModules = [
  '@codemirror',
  '@jupyter/',
  '@jupyterlab/',
  '@marijn/',
  '@microsoft/',
  'exenv-es6',
  'lib0',
  'nanoid',
  'vscode-ws-jsonrpc',
  'y-protocols',
  'y-websocket',
  'yjs'
].join('|');

const base = jestJupyterLab(__dirname);
delete base.reporters;

module.exports = {
  ...base,
  automock: false,
  testRegex: 'src/__tests__/.*\\.spec\\.tsx?$',
  transformIgnorePatterns: [`/node_modules/(?!${esModules}).+`]
};
