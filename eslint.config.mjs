// How the page's scripts are linted: the modules, and the script that they are joined into. See .ci/lint-page.

import js from "@eslint/js";

// What the scripts use of the browser. There is no list of all that it has: `name`, `top` and `status` are among that, and
// a variable that was forgotten would pass for them.
const BROWSER = [
  "addEventListener",
  "atob",
  "Blob",
  "clearTimeout",
  "DecompressionStream",
  "document",
  "history",
  "ImageData",
  "location",
  "navigator",
  "Response",
  "setTimeout",
  "URL",
  "URLSearchParams",
];

const rules = {
  ...js.configs.recommended.rules,
  "array-callback-return": "error",
  "default-case-last": "error",
  eqeqeq: "error",
  "no-duplicate-imports": "error",
  "no-eval": "error",
  "no-implied-eval": "error",
  "no-new-func": "error",
  "no-param-reassign": "error",
  "no-redeclare": ["error", { builtinGlobals: true }],
  "no-restricted-syntax": ["error", "ImportExpression", "MetaProperty"], // of modules, which the joined script has not
  "no-shadow": ["error", { builtinGlobals: true, hoist: "all" }],
  "no-throw-literal": "error",
  "no-unused-expressions": "error",
  "no-use-before-define": ["error", { functions: false, variables: false }],
  "no-useless-return": "error",
  "no-var": "error",
  "object-shorthand": "error",
  "one-var": ["error", "never"], // joining reads one declaration a line
  "prefer-const": "error",
};

const languageOptions = { ecmaVersion: 2022, globals: Object.fromEntries(BROWSER.map((name) => [name, "readonly"])) };
const linterOptions = { reportUnusedDisableDirectives: "error", reportUnusedInlineConfigs: "error" };

export default [
  {
    files: ["captum_sgcampp/page/*.js"],
    languageOptions: { ...languageOptions, sourceType: "module" },
    linterOptions,
    rules: { ...rules, "no-implicit-globals": "error" },
  },
  {
    files: ["build/page.js"],
    languageOptions: { ...languageOptions, sourceType: "script" },
    linterOptions,
    rules: { ...rules, strict: ["error", "global"] },
  },
];
