// Reading an OpenAPI 3.1 description: references, operations, types in words, samples.

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
const MAX_HOPS = 16; // a chain of references longer than this is a circle
const MAX_SAMPLE_DEPTH = 6;
const COMPONENT = /^#\/(?:components\/schemas|\$defs)\/([^/]+)$/;

/** Follow `$ref` inside the description; siblings of a `$ref` win over what it points to (3.1). */
export function resolve(spec, node) {
  let current = node;
  for (let hop = 0; current?.$ref && hop < MAX_HOPS; hop++) {
    const { $ref, ...siblings } = current;
    current = { ...pointer(spec, $ref), ...siblings };
  }
  return current ?? {};
}

function pointer(spec, ref) {
  if (!ref.startsWith("#/")) return {};
  const steps = ref.slice(2).split("/").map((step) => decodeURIComponent(step).replaceAll("~1", "/").replaceAll("~0", "~"));
  return steps.reduce((node, step) => node?.[step], spec) ?? {};
}

/** The name of the component that a schema refers to, or null. */
export function componentName(schema) {
  return COMPONENT.exec(schema?.$ref ?? "")?.[1] ?? null;
}

/** All operations in the order of the description: {id, method, path, tag, operation, parameters}. */
export function operations(spec) {
  return Object.entries(spec.paths ?? {}).flatMap(([path, reference]) => {
    const item = resolve(spec, reference);
    return METHODS.filter((method) => item[method]).map((method) => {
      const operation = item[method];
      const all = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((one) => resolve(spec, one));
      const parameters = [...new Map(all.map((one) => [`${one.in} ${one.name}`, one])).values()];
      const id = `${method}-${path.replaceAll(/[^\w]+/g, "-").replaceAll(/^-|-$/g, "") || "root"}`;
      return { id, method, path, tag: operation.tags?.[0] ?? "", operation, parameters };
    });
  });
}

/** A type in words: a list of texts and {component} parts, to be joined. */
export function typeParts(schema) {
  if (schema === true || schema === undefined) return ["anything"];
  if (schema === false) return ["nothing"];
  const component = componentName(schema);
  if (component) return [{ component }];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" | ")];
  if (schema.anyOf ?? schema.oneOf) return joined(schema.anyOf ?? schema.oneOf, " | ");
  if (schema.allOf) return joined(schema.allOf, " & ");
  const types = [schema.type ?? (schema.properties ? "object" : "anything")].flat();
  return types.flatMap((type, index) => [...(index ? [" | "] : []), ...oneType(type, schema)]);
}

function joined(schemas, separator) {
  return schemas.flatMap((schema, index) => [...(index ? [separator] : []), ...typeParts(schema)]);
}

function oneType(type, schema) {
  if (type === "array" && schema.prefixItems) return ["[", ...joined(schema.prefixItems, ", "), "]"];
  if (type === "array") return ["list of ", ...typeParts(schema.items)];
  const values = schema.additionalProperties ?? Object.values(schema.patternProperties ?? {})[0];
  if (type === "object" && !schema.properties && typeof values === "object") return ["map to ", ...typeParts(values)];
  return [schema.format ? `${type} (${schema.format})` : type];
}

/**
 * The properties of an object schema, those of objects written out inside it too, with a path for a name.
 *
 * Returns [{name, schema, required}]; empty for anything without properties. References inside are not entered.
 */
export function properties(spec, reference, prefix = "") {
  const schema = resolve(spec, reference);
  return Object.entries(schema.properties ?? {}).flatMap(([key, property]) => {
    const one = { name: prefix + key, schema: property, required: schema.required?.includes(key) ?? false };
    if (property.$ref || property.items?.$ref) return [one];
    const inner = property.items ? properties(spec, property.items, `${one.name}[].`) : properties(spec, property, `${one.name}.`);
    return [one, ...inner];
  });
}

/** Limits and default in words, also those inside `anyOf` with null and inside list items. */
export function limits(schema) {
  if (schema === null || typeof schema !== "object") return [];
  const words = [];
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, pattern } = schema;
  if (minimum !== undefined) words.push(`≥ ${minimum}`);
  if (maximum !== undefined) words.push(`≤ ${maximum}`);
  if (exclusiveMinimum !== undefined) words.push(`> ${exclusiveMinimum}`);
  if (exclusiveMaximum !== undefined) words.push(`< ${exclusiveMaximum}`);
  words.push(...lengths(schema.minLength, schema.maxLength, "characters"));
  words.push(...lengths(schema.minItems, schema.maxItems, "items"));
  words.push(...lengths(schema.minProperties, schema.maxProperties, "fields"));
  if (pattern !== undefined) words.push(`matches ${pattern}`);
  for (const inner of schema.anyOf ?? schema.oneOf ?? []) words.push(...limits({ ...inner, default: undefined }));
  if (schema.default !== undefined && schema.default !== null) words.push(`default ${JSON.stringify(schema.default)}`);
  return words;
}

function lengths(least, most, what) {
  if (least === undefined && most === undefined) return [];
  if (most === undefined) return [`at least ${least} ${what}`];
  return [least === undefined ? `at most ${most} ${what}` : `${least} to ${most} ${what}`];
}

/** Examples of a media type or parameter: [{name, value}], the written ones or else one made from the schema. */
export function examples(spec, node) {
  if (node.examples && !Array.isArray(node.examples)) {
    return Object.entries(node.examples).map(([name, reference]) => {
      const example = resolve(spec, reference);
      return { name: example.summary ?? name, value: example.value };
    });
  }
  if (node.example !== undefined) return [{ name: "example", value: node.example }];
  const schema = resolve(spec, node.schema);
  if (Array.isArray(schema.examples) && schema.examples.length > 0) {
    return schema.examples.map((value, index) => ({ name: `example ${index + 1}`, value }));
  }
  return [{ name: "sample", value: sample(spec, node.schema ?? {}) }];
}

function sample(spec, reference, depth = 0) {
  const schema = resolve(spec, reference);
  if (depth > MAX_SAMPLE_DEPTH) return null;
  if (schema.examples?.length) return schema.examples[0];
  for (const name of ["example", "default", "const"]) if (schema[name] !== undefined) return schema[name];
  if (schema.enum) return schema.enum[0];
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return sample(spec, choices.find((choice) => choice.type !== "null") ?? choices[0], depth);
  if (schema.allOf) return Object.assign({}, ...schema.allOf.map((part) => sample(spec, part, depth)));
  return sampleOfType([schema.type].flat().find((type) => type !== "null"), spec, schema, depth);
}

function sampleOfType(type, spec, schema, depth) {
  if (type === "string") return schema.format === "date-time" ? "2026-01-31T12:00:00Z" : "text";
  if (type === "integer" || type === "number") return schema.minimum ?? 0;
  if (type === "boolean") return true;
  if (type === "array") return [sample(spec, schema.items ?? {}, depth + 1)];
  const all = Object.entries(schema.properties ?? {});
  const required = all.filter(([name]) => schema.required?.includes(name));
  const shown = required.length ? required : all.slice(0, 1);
  return Object.fromEntries(shown.map(([name, property]) => [name, sample(spec, property, depth + 1)]));
}
